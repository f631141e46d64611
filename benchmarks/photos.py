"""The story of docs/photos.md by seeds, on features that are computed once.

    autodo embed FOLDER --to=features.npz
    python benchmarks/photos.py --data=features.npz [--seeds=0,1,2,3,4]
        --json=benchmarks/results/photos-cpu.json

FOLDER has train/CLASS/* and test/CLASS/* with right labels: of CIFAR-10 as JPEG, for
the first six classes, the 1001st to the 1130th train image and the first 120 test
images, by name. By its seed a cell takes 40 train images of each class, gives 24 of the
240 another label, and takes 15 clean ones a class. The head of configs/photos.py is
solved on them; then on those that are not suspects; and on all once somebody has set
right the 40 with the largest noise score. Beside it, the control with Lambda frozen and
the honest rivals, by the same command; and scikit-learn's logistic regression
on the same standardised features, of the train images, of the clean ones, of both, and
of both without what cleanlab's filter finds. AP is the average precision of the noise
score, and of cleanlab's label quality, for the 24.
"""

import contextlib
import io
import warnings
from typing import Any, NamedTuple

import cleanlab.filter
import cleanlab.rank
import common
import numpy as np
import tabulate
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler

import autodo_jax
from autodo_jax import config as config_lib

NUM_TRAIN, NUM_CLEAN, NUM_WRONG, NUM_REVIEWED = 40, 15, 24, 40
ROWS = {
    "autodo, error %": "first",
    "autodo, frozen, error %": "frozen",
    "clean_only, error %": "clean_only",
    "joined, error %": "joined",
    "autodo after `export`, error %": "cleaned",
    "autodo after a review, error %": "reviewed",
    "LR train, error %": "LR train",
    "LR clean, error %": "LR clean",
    "LR both, error %": "LR both",
    "cleanlab + both, error %": "cleanlab + both",
    "wrong labels after `export`, %": "after",
    "wrong labels after a review, %": "after_review",
    "suspects": "sus",
    "of them wrong": "wsus",
    "AP of the noise score": "ap",
    "AP of cleanlab": "ap_cleanlab",
}

Part = tuple[np.ndarray, np.ndarray]  # features, labels


class Cell(NamedTuple):
    """The images of a seed, by their features."""

    points: np.ndarray
    given: np.ndarray  # labels of the points
    true: np.ndarray
    clean: Part
    test: Part


def draw(arrays: dict[str, np.ndarray], seed: int, num_wrong: int = NUM_WRONG) -> Cell:
    """Returns the images of a seed, so many of them with a wrong label."""
    rng = np.random.default_rng(seed)
    labels = arrays["train_labels"]
    places = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    orders = [place[rng.permutation(len(place))] for place in places]
    rows = np.concatenate([order[:NUM_TRAIN] for order in orders])
    clean_rows = np.concatenate(
        [order[NUM_TRAIN : NUM_TRAIN + NUM_CLEAN] for order in orders]
    )
    points, true = arrays["train_features"][rows], labels[rows]
    given = true.copy()
    wrong = rng.permutation(len(true))[:num_wrong]
    given[wrong] += rng.integers(1, len(places), num_wrong)
    given[wrong] %= len(places)
    clean = arrays["train_features"][clean_rows], labels[clean_rows]
    test = arrays["test_features"], arrays["test_labels"]
    return Cell(points, given, true, clean, test)


def run_story(arrays: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Returns the numbers of a seed."""
    points, given, true, clean, test = draw(arrays, seed)
    is_wrong = given != true

    def train(
        points: Part, method: str = "autodo", *, frozen: bool = False
    ) -> autodo_jax.OptimizedDataset:
        config = autodo_jax.config_for(points)
        if method != config.method:
            config_lib.use_features(config, method)
        config.hyper.frozen = frozen
        return autodo_jax.optimize_dataset(
            points, clean, test, config=config, progress=False
        )

    first = train((points, given))
    report = first.report
    kept = ~report.is_suspect
    reviewed = given.copy()
    looked_at = np.argsort(-report.noise_score)[:NUM_REVIEWED]
    reviewed[looked_at] = true[looked_at]
    found: dict[str, Any] = {
        "first": first.result["test_error"],
        "frozen": train((points, given), frozen=True).result["test_error"],
        "clean_only": train((points, given), "clean_only").result["test_error"],
        "joined": train((points, given), "joined").result["test_error"],
        "cleaned": train((points[kept], given[kept])).result["test_error"],
        "reviewed": train((points, reviewed)).result["test_error"],
        "ap": float(average_precision_score(is_wrong, report.noise_score)),
        "sus": int(report.is_suspect.sum()),
        "wsus": int((report.is_suspect & is_wrong).sum()),
        "after": 100 * float(is_wrong[kept].mean()),
        "after_review": 100 * float(np.mean(reviewed != true)),
    }
    return found | run_peers((points, given), clean, test, is_wrong)


def run_peers(train: Part, clean: Part, test: Part, is_wrong: np.ndarray) -> dict:
    """Returns errors of logistic regressions, and the AP of cleanlab."""
    scale = StandardScaler().fit(train[0])
    train, clean, test = (
        (scale.transform(part[0]), part[1]) for part in (train, clean, test)
    )
    labels = train[1]
    both = np.concatenate([train[0], clean[0]]), np.concatenate([labels, clean[1]])

    def error(points: Part) -> float:
        predicted = _regression().fit(*points).predict(test[0])
        return 100 * float(np.mean(predicted != test[1]))

    probability = cross_val_predict(_regression(), *both, cv=5, method="predict_proba")
    probability = probability[: len(labels)]
    with contextlib.redirect_stdout(io.StringIO()):
        issues = cleanlab.filter.find_label_issues(labels, probability)
    quality = cleanlab.rank.get_label_quality_scores(labels, probability)
    kept = np.concatenate([~issues, np.ones(len(clean[1]), bool)])
    return {
        "LR train": error(train),
        "LR clean": error(clean),
        "LR both": error(both),
        "cleanlab + both": error((both[0][kept], both[1][kept])),
        "ap_cleanlab": float(average_precision_score(is_wrong, -quality)),
    }


def _regression() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def to_table(runs: dict[str, dict[str, Any]]) -> str:
    """Returns means and sample standard deviations over the seeds, as Markdown."""
    table = []
    for title, name in ROWS.items():
        values = [run[name] for run in runs.values()]
        digits = 3 if name.startswith("ap") else 1
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        table.append((title, f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"))
    return tabulate.tabulate(table, ("", f"{len(runs)} seeds"), tablefmt="github")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    with np.load(arguments.data) as file:
        arrays = dict(file)
    runs = common.runs_of(arguments.json)
    for seed in arguments.seeds.split(","):
        if seed not in runs:
            runs[seed] = run_story(arrays, int(seed))
            common.write(arguments.json, runs=runs)
    print(to_table(runs))


if __name__ == "__main__":
    main()
