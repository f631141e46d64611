"""What cleaning the labels of 240 photographs buys, by who learns from them.

    python benchmarks/photos_cleaning.py --data=features.npz [--seeds=101,...,110]
        [--shares=0.1,0.2] [--methods=autodo,...]
        --json=benchmarks/results/photos-cleaning-cpu.json

The folders of photos.py, with a tenth or a fifth of the labels wrong. One run of
`autodo` finds the suspects. Then each method learns from the labels as given; without
the suspects, as `export` leaves them out; with their suggested labels, as by
`--suspects=relabel`; after a review of the 40 images with the largest noise score; and
from the true labels, the most that cleaning can do. The clean set stays the same.

    autodo     the head of configs/photos.py, which learns whom to believe
    baseline   the same head and penalty on the train images alone
    LR train   scikit-learn's logistic regression on standardised features
    LR both    the same, the clean images added

Errors in percent, mean and deviation over the seeds; in parentheses the paired
difference to the labels as given, and its standard error.
"""

import warnings
from typing import Any

import common
import numpy as np
import photos
import tabulate
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import autodo_jax
from autodo_jax import config as config_lib
from autodo_jax.main import enable_compilation_cache

METHODS = ("autodo", "baseline", "LR train", "LR both")
LABELS = {
    "given": "as given",
    "drop": "after `export`",
    "relabel": "relabelled",
    "review": "after a review",
    "true": "true labels",
}
# Those that say little more and take long.
SKIPPED = {("autodo", "review"), ("baseline", "relabel"), ("baseline", "review")}
SKIPPED.add(("baseline", "true"))


def run(
    arrays: dict[str, np.ndarray], seed: int, share: float, methods: list[str]
) -> dict[str, Any]:
    """Returns errors and shares of wrong labels, in percent, and the suspects."""
    cell = photos.draw(arrays, seed, round(share * photos.NUM_TRAIN * 6))
    points, given, true = cell.points, cell.given, cell.true
    first = train(cell, "autodo", points, given)
    report = first.report
    is_suspect = report.is_suspect
    column = {name: c for c, name in enumerate(first.class_names)}
    suggested = np.array([column[name] for name in report.suggested_label])
    looked_at = np.argsort(-report.noise_score)[: photos.NUM_REVIEWED]
    reviewed = given.copy()
    reviewed[looked_at] = true[looked_at]
    every = np.ones(len(given), bool)
    labels = {
        "given": (every, given),
        "drop": (~is_suspect, given),
        "relabel": (every, np.where(is_suspect, suggested, given)),
        "review": (every, reviewed),
        "true": (every, true),
    }
    found: dict[str, Any] = {
        "suspects": int(is_suspect.sum()),
        "wrong suspects": int((is_suspect & (given != true)).sum()),
        "wrong": {
            name: 100 * float(np.mean((y != true)[kept]))
            for name, (kept, y) in labels.items()
        },
    }
    if "autodo" in methods:
        found["autodo"] = {"given": first.result["test_error"]}
    for method in methods:
        errors = found.setdefault(method, {})
        for name, (kept, y) in labels.items():
            if name in errors or (method, name) in SKIPPED:
                continue
            if method in config_lib.METHODS:
                trained = train(cell, method, points[kept], y[kept])
                errors[name] = trained.result["test_error"]
            else:
                errors[name] = regression(cell, method, kept, y)
    return found


def train(
    cell: photos.Cell, method: str, points: np.ndarray, labels: np.ndarray
) -> autodo_jax.OptimizedDataset:
    """Returns the run of a method of this package."""
    config = autodo_jax.config_for((points, labels))
    config_lib.use_features(config, method)
    return autodo_jax.optimize_dataset(
        (points, labels), cell.clean, cell.test, config=config, progress=False
    )


def regression(
    cell: photos.Cell, method: str, kept: np.ndarray, labels: np.ndarray
) -> float:
    """Returns the error of a logistic regression."""
    scale = StandardScaler().fit(cell.points)
    x, y = scale.transform(cell.points[kept]), labels[kept]
    if method == "LR both":
        x = np.concatenate([x, scale.transform(cell.clean[0])])
        y = np.concatenate([y, cell.clean[1]])
    model = LogisticRegression(max_iter=1000).fit(x, y)
    predicted = model.predict(scale.transform(cell.test[0]))
    return 100 * float(np.mean(predicted != cell.test[1]))


def to_table(runs: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table of the seeds of a share."""
    lines = []
    for row in ("wrong", *METHODS):
        found = [seed for seed in runs.values() if row in seed]
        title = "wrong labels" if row == "wrong" else row
        line = {"learner": title, "seeds": len(found)}
        for name, title in LABELS.items():
            values = np.array([seed[row][name] for seed in found if name in seed[row]])
            text = "-"
            if len(values) > 1:
                text = f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
                gains = values - [seed[row]["given"] for seed in found]
                if name != "given" and row != "wrong":
                    error = gains.std(ddof=1) / np.sqrt(len(gains))
                    text += f" ({gains.mean():+.1f} ± {error:.1f})"
            line[title] = text
        lines.append(line)
    return tabulate.tabulate(lines, "keys", "github", disable_numparse=True)


def main() -> None:
    """Prints a table for each share; continues where it was stopped."""
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default=",".join(map(str, range(101, 111))))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--shares", default="0.1,0.2", help="of wrong labels")
    arguments = parser.parse_args()
    enable_compilation_cache()
    warnings.filterwarnings("ignore")
    with np.load(arguments.data) as file:
        arrays = dict(file)
    runs = common.runs_of(arguments.json)
    for seed in arguments.seeds.split(","):
        for share in arguments.shares.split(","):
            found = runs.setdefault(share, {}).setdefault(seed, {})
            missing = [m for m in arguments.methods.split(",") if m not in found]
            if missing:
                found |= run(arrays, int(seed), float(share), missing)
                common.write(arguments.json, runs=runs)
    for share, seeds in runs.items():
        print(f"\n{100 * float(share):.0f} % wrong labels\n\n{to_table(seeds)}")


if __name__ == "__main__":
    main()
