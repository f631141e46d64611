"""The story of docs/photos.md by seeds: a folder, a run, a cleaned folder, a new run.

    python benchmarks/photos.py --data=DIR --json=benchmarks/results/photos-cpu.json
        [--seeds=0,1,2,3,4]

DIR is CIFAR-10 as JPEG, train/<class>/*.jpg and test/<class>/*.jpg. By its seed a
folder gets 40 train images of each of the first six classes, 24 of the 240 in the
folder of another class, 15 clean ones a class in val/, and 100 a class in test/.
configs/photos.py trains on it. Then `export` leaves out the suspects, and
configs/photos.py trains on the rest; or somebody looks at the 40 images with the
largest noise score, sets right the labels that are wrong, and it trains on those.
Beside it, scikit-learn's logistic regression on the same standardised features, of the
train images, of the clean ones, of both, and of both without what cleanlab's filter
finds. AP is the average precision of the noise score, and of cleanlab's label quality,
for the 24. Seconds are those of whole processes; the second run has features and
compiled programs of the first.
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

import cleanlab.filter
import cleanlab.rank
import common
import numpy as np
import tabulate
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler

from autodo_jax.config import default_config, use_pretrained
from autodo_jax.embed import __main__ as embed
from autodo_jax.workdir import files
from autodo_jax.workdir.dataset_report import load_dataset_report

NUM_CLASSES, NUM_TRAIN, NUM_CLEAN, NUM_TEST, NUM_WRONG = 6, 40, 15, 100, 24
NUM_REVIEWED = 40


def make_folder(data: pathlib.Path, seed: int, target: pathlib.Path) -> dict[str, str]:
    """Links the images and returns ids of those with a wrong label -> the right one."""
    rng = np.random.default_rng(seed)
    names = sorted(path.name for path in (data / "train").iterdir())[:NUM_CLASSES]
    wrong = rng.permutation(NUM_CLASSES * NUM_TRAIN)[:NUM_WRONG]
    moved, number = {}, 0
    for name in names:
        paths = sorted((data / "train" / name).iterdir())
        chosen = rng.permutation(len(paths))[: NUM_TRAIN + NUM_CLEAN]
        tested = sorted((data / "test" / name).iterdir())
        for i, row in enumerate(chosen):
            part, label = ("train", name) if i < NUM_TRAIN else ("val", name)
            if part == "train":
                if number in wrong:
                    label = str(rng.choice([other for other in names if other != name]))
                    moved[f"train/{label}/{name}-{paths[row].name}"] = name
                number += 1
            _link(paths[row], target / part / label / f"{name}-{paths[row].name}")
        for row in rng.permutation(len(tested))[:NUM_TEST]:
            _link(tested[row], target / "test" / name / f"{name}-{tested[row].name}")
    return moved


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.absolute())


def run_story(data: pathlib.Path, seed: int, root: pathlib.Path) -> dict[str, Any]:
    """Returns the numbers of a seed; `root` is an empty folder."""
    wrong = make_folder(data, seed, root / "photos")
    first, runs = root / "runs/first", root / "runs"
    seconds = [_train(root / "photos", first, seed)]
    _program("export", first, f"--to={root / 'cleaned'}")
    seconds.append(_train(root / "cleaned", runs / "cleaned", seed))
    report = load_dataset_report(first)
    looked_at = report.id[np.argsort(-report.noise_score)[:NUM_REVIEWED]]
    lines = ["id,given_label,decision,new_label"]
    for name in looked_at:
        decision = "relabel" if name in wrong else "keep"
        given = name.split("/")[1]
        lines.append(f"{name},{given},{decision},{wrong.get(name, given)}")
    (first / files.REVIEW).write_text("\n".join(lines) + "\n")
    review = f"--review={first / files.REVIEW}"
    _program("export", first, f"--to={root / 'reviewed'}", review)
    seconds.append(_train(root / "reviewed", runs / "reviewed", seed))
    is_wrong = np.isin(report.id, [*wrong])
    found: dict[str, Any] = {
        "wrong_first": 100 * float(is_wrong.mean()),
        "num_suspects": int(report.is_suspect.sum()),
        "wrong_suspects": int((report.is_suspect & is_wrong).sum()),
        "ap": float(average_precision_score(is_wrong, report.noise_score)),
        "seconds": seconds,
    }
    for name in ("cleaned", "reviewed"):
        kept = [
            path.relative_to(root / name).as_posix()
            for path in (root / name / "train").rglob("*.jpg")
        ]
        found[f"wrong_{name}"] = 100 * len(wrong.keys() & {*kept}) / len(kept)
    for name in ("first", "cleaned", "reviewed"):
        text = (runs / name / files.RESULT).read_text()
        found[f"error_{name}"] = json.loads(text)["test_error"]
    return found | run_peers(_features(root / "photos", first), {*wrong})


def _features(folder: pathlib.Path, workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns what `python -m autodo_jax.embed` writes, of features that are kept."""
    config = default_config()
    use_pretrained(config)
    config.data.source, config.data.data_dir = "folder", str(folder)
    return embed.embed(config, workdir=workdir)


def _train(folder: pathlib.Path, workdir: pathlib.Path, seed: int) -> float:
    start = time.monotonic()
    flags = [f"--config.data.data_dir={folder}", f"--config.seed={seed}"]
    _program("main", "--config=configs/photos.py", *flags, f"--workdir={workdir}")
    return time.monotonic() - start


def _program(name: str, *arguments: Any) -> None:
    command = [sys.executable, "-m", f"autodo_jax.{name}", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run_peers(arrays: dict[str, np.ndarray], wrong: set[str]) -> dict[str, Any]:
    """Returns errors of logistic regressions, and the AP of cleanlab."""
    scale = StandardScaler().fit(arrays["train_features"])
    parts = {
        name: (scale.transform(arrays[f"{name}_features"]), arrays[f"{name}_labels"])
        for name in ("train", "validation", "test")
    }
    (train, labels), clean, test = parts.values()
    both = np.concatenate([train, clean[0]]), np.concatenate([labels, clean[1]])

    def error(points: tuple[np.ndarray, np.ndarray]) -> float:
        return 100 * float(
            np.mean(_regression().fit(*points).predict(test[0]) != test[1])
        )

    probability = cross_val_predict(_regression(), *both, cv=5, method="predict_proba")[
        : len(labels)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        issues = cleanlab.filter.find_label_issues(labels, probability)
    quality = cleanlab.rank.get_label_quality_scores(labels, probability)
    is_wrong = np.isin(arrays["train_ids"], [*wrong])
    kept = np.concatenate([~issues, np.ones(len(clean[1]), bool)])
    return {
        "LR train": error((train, labels)),
        "LR clean": error(clean),
        "LR both": error(both),
        "cleanlab + both": error((both[0][kept], both[1][kept])),
        "ap_cleanlab": float(average_precision_score(is_wrong, -quality)),
    }


def _regression() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def to_table(runs: dict[str, dict[str, Any]]) -> str:
    """Returns means and sample standard deviations over the seeds, as Markdown."""
    rows = [
        ("photos, error %", "error_first"),
        ("photos after `export`, error %", "error_cleaned"),
        ("photos after a review, error %", "error_reviewed"),
        *((f"{name}, error %", name) for name in ("LR train", "LR clean", "LR both")),
        ("cleanlab + both, error %", "cleanlab + both"),
        ("wrong labels at first, %", "wrong_first"),
        ("wrong labels after `export`, %", "wrong_cleaned"),
        ("wrong labels after a review, %", "wrong_reviewed"),
        ("suspects", "num_suspects"),
        ("of them wrong", "wrong_suspects"),
        ("AP of the noise score", "ap"),
        ("AP of cleanlab", "ap_cleanlab"),
    ]
    table = []
    for title, name in rows:
        values = [run[name] for run in runs.values()]
        digits = 3 if name.startswith("ap") else 1
        table.append(
            (title, f"{np.mean(values):.{digits}f} ± {_spread(values):.{digits}f}")
        )
    for number, title in enumerate(("first run", "second run", "third run")):
        values = [run["seconds"][number] for run in runs.values()]
        table.append((f"seconds, {title}", f"{np.mean(values):.0f}"))
    return tabulate.tabulate(table, ("", f"{len(runs)} seeds"), tablefmt="github")


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    runs: dict[str, dict[str, Any]] = {}
    if arguments.json and pathlib.Path(arguments.json).exists():
        runs = json.loads(pathlib.Path(arguments.json).read_text())["runs"]
    for seed in arguments.seeds.split(","):
        if seed not in runs:
            with tempfile.TemporaryDirectory() as root:
                runs[seed] = run_story(arguments.data, int(seed), pathlib.Path(root))
            common.write(arguments.json, runs=runs)
            print(seed, runs[seed], flush=True)
    print(to_table(runs))


if __name__ == "__main__":
    main()
