"""Compares a head on frozen features with its rivals, on cells of CIFAR-10.

    python benchmarks/embeddings.py --data=cifar10-embeddings.npz
        --json=benchmarks/results/embeddings.json [--rows=ROW;...] [--seeds=0,1,2,3,4]

The file has `train_features`, `train_labels`, `test_features` and `test_labels`. A cell
takes points of six classes by its seed: so many train points a class (a tenth of them
for the last three classes at IR 10), a share of whose labels is redrawn, and so many
clean points a class; the test points are all of the file. Rows:

    autodo, autodo_s, autodo_w   the default: Lambda guarded, clean points joined
    autodo, unguarded            20 steps of Lambda, clean points joined
    autodo, best step            of these 20 the best by the mean test error, one step
                                 for all seeds: chosen in hindsight, no method
    autodo, best step, by seed   the same with a step for each seed
    autodo, frozen               the control: Lambda kept at its start
    baseline, clean_only, joined the rivals with the same head and penalty
    LR train, clean, both        scikit-learn's logistic regression, its defaults
    LR true labels + clean       the same without wrong labels
    cleanlab + both              LR on both without the points that cleanlab's filter
                                 finds among out-of-sample probabilities of five folds

Errors are in percent; AP is the average precision of the noise score for the labels
that were changed, `cleanlab` that of its label quality. Rows of a seed that the file
has are not repeated.
"""

import functools
import json
import pathlib
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import cleanlab.filter
import cleanlab.rank
import common
import numpy as np
import tabulate
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

import autodo_jax
from autodo_jax.config import use_features
from autodo_jax.data.sources import arrays
from autodo_jax.main import enable_compilation_cache
from autodo_jax.train import loop
from autodo_jax.train.setup import prepare
from autodo_jax.workdir import files

# Train points a class, clean points a class, IR, NR.
CELLS = {
    "240 train, 90 clean, NR 0.1": (40, 15, 1, 0.1),
    "240 train, 90 clean, NR 0.3": (40, 15, 1, 0.3),
    "132 train, 90 clean, IR 10, NR 0.1": (40, 15, 10, 0.1),
    "1,320 train, 90 clean, IR 10, NR 0.2": (400, 15, 10, 0.2),
    "1,320 train, 360 clean, IR 10, NR 0.2": (400, 60, 10, 0.2),
}
NUM_CLASSES, NUM_FOLDS = 6, 5
OURS = ("autodo", "autodo_s", "autodo_w", "autodo, unguarded", "autodo, frozen")
RIVALS = ("baseline", "clean_only", "joined")
PEERS = ("LR train", "LR clean", "LR both", "LR true labels + clean", "cleanlab + both")
ROWS = (*OURS, *RIVALS, *PEERS)
HINDSIGHT = ("autodo, best step", "autodo, best step, by seed")

Part = tuple[np.ndarray, np.ndarray]  # features, labels


class Cell(NamedTuple):
    """The points of a cell, features standardised by the train points."""

    train: Part
    clean: Part
    test: Part
    true_labels: np.ndarray  # of the train points


def draw(path: str, cell: str, seed: int) -> Cell:
    """Returns the points of a cell."""
    per_class, num_clean, imbalance, noise = CELLS[cell]
    given_arrays, rng = _arrays(path), np.random.default_rng(seed)
    train, clean = [], []
    for label in range(NUM_CLASSES):
        order = rng.permutation(np.flatnonzero(given_arrays["train_labels"] == label))
        rare = label >= NUM_CLASSES // 2
        train.append(order[: round(per_class / imbalance) if rare else per_class])
        clean.append(order[per_class : per_class + num_clean])
    chosen = np.concatenate(train), np.concatenate(clean)
    (x, true), (clean_x, clean_y) = (
        (
            given_arrays["train_features"][rows],
            given_arrays["train_labels"][rows].astype(np.int64),
        )
        for rows in chosen
    )
    given = true.copy()
    flipped = rng.permutation(len(true))[: round(noise * len(true))]
    given[flipped] = rng.integers(0, NUM_CLASSES, len(flipped))
    tested = given_arrays["test_labels"] < NUM_CLASSES
    scale = StandardScaler().fit(x.astype(np.float32))

    def standardised(features: np.ndarray) -> np.ndarray:
        return scale.transform(features.astype(np.float32))

    return Cell(
        (standardised(x), given),
        (standardised(clean_x), clean_y),
        (
            standardised(given_arrays["test_features"][tested]),
            given_arrays["test_labels"][tested].astype(np.int64),
        ),
        true,
    )


@functools.cache
def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def run_ours(cell: Cell, row: str, seed: int) -> dict[str, Any]:
    """Returns error, AP and the epoch of Lambda of a row of this package."""
    method, _, variant = row.partition(", ")
    config = autodo_jax.config_for(cell.train).unlock()
    use_features(config, method)
    config.seed = seed
    config.hyper.frozen = variant == "frozen"
    if variant == "unguarded":
        config.guard.folds = 0
    with tempfile.TemporaryDirectory() as folder:
        setup, state = prepare(config, splits=arrays.to_splits(*cell[:3]))
        found = loop.run(setup, state, pathlib.Path(folder))
        lines = (pathlib.Path(folder) / files.METRICS).read_text().splitlines()
    changed = cell.train[1] != cell.true_labels
    results = {
        "error": found.result["test_error"],
        "AP": average_precision_score(changed, found.report.noise_score),
    }
    if variant == "unguarded":
        results["path"] = [json.loads(line)["test_error"] for line in lines]
    elif "lambda_epoch" in found.result:
        results["steps"] = found.result["lambda_epoch"] - 1
    return results


def run_peer(cell: Cell, row: str) -> dict[str, Any]:
    """Returns the error, and of cleanlab the AP, of a row of other libraries."""
    pairs = zip(cell.train, cell.clean, strict=True)
    features, labels = map(np.concatenate, pairs)
    joined = features, labels
    if row == "cleanlab + both":
        return _run_cleanlab(cell, joined)
    true = np.concatenate([cell.true_labels, cell.clean[1]])
    points = {
        "LR train": cell.train,
        "LR clean": cell.clean,
        "LR both": joined,
        "LR true labels + clean": (joined[0], true),
    }[row]
    return {"error": _error(points, cell.test)}


def _run_cleanlab(cell: Cell, joined: Part) -> dict[str, Any]:
    """Filters the train points; the clean ones take part in the folds as well."""
    num_train = len(cell.train[1])
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    model = LogisticRegression(max_iter=1000)
    p = cross_val_predict(model, *joined, cv=folds, method="predict_proba")[:num_train]
    issues = cleanlab.filter.find_label_issues(cell.train[1], p, n_jobs=1)
    quality = cleanlab.rank.get_label_quality_scores(cell.train[1], p)
    kept = np.r_[~issues, np.ones(len(cell.clean[1]), bool)]
    changed = cell.train[1] != cell.true_labels
    return {
        "error": _error((joined[0][kept], joined[1][kept]), cell.test),
        "AP": average_precision_score(changed, -quality),
    }


def _error(points: Part, test: Part) -> float:
    model = LogisticRegression(max_iter=1000).fit(*points)
    return 100 * float(np.mean(model.predict(test[0]) != test[1]))


def to_table(runs: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Returns a Markdown table: a row's error in each cell, mean and deviation."""
    lines = []
    names = [
        row for row in ROWS if any(row in r for c in runs.values() for r in c.values())
    ]
    for row in (*names, *HINDSIGHT):
        line = {"row": row}
        for cell, seeds in runs.items():
            if row in HINDSIGHT:
                values = best_steps(seeds, by_seed=row == HINDSIGHT[1])
            else:
                values = [rows[row]["error"] for rows in seeds.values() if row in rows]
            line[cell] = spread(values)
        lines.append(line)
    return tabulate.tabulate(lines, "keys", "github", disable_numparse=True)


def best_steps(seeds: dict[str, dict[str, Any]], *, by_seed: bool) -> list[float]:
    """Returns each seed's error at the step that is best in hindsight."""
    source = "autodo, unguarded"
    paths = [rows[source]["path"] for rows in seeds.values() if source in rows]
    if not paths:
        return []
    if by_seed:
        return [min(path) for path in paths]
    step = int(np.mean(paths, axis=0).argmin())
    return [path[step] for path in paths]


def to_ap_table(runs: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Returns a Markdown table of average precisions."""
    lines = []
    for row in ("autodo", "joined", "cleanlab + both"):
        line = {"row": row}
        for cell, seeds in runs.items():
            values = [rows[row]["AP"] for rows in seeds.values() if row in rows]
            line[cell] = spread(values, digits=3)
        lines.append(line)
    return tabulate.tabulate(lines, "keys", "github", disable_numparse=True)


def spread(values: list[float], digits: int = 1) -> str:
    """Returns mean ± sample standard deviation."""
    if not values:
        return "-"
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return text


def main() -> None:
    """Prints the tables and keeps each row; skips those done before."""
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True, help="the .npz file")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by ;")
    arguments = parser.parse_args()
    enable_compilation_cache()
    warnings.filterwarnings("ignore", category=FutureWarning)
    runs = common.runs_of(arguments.json)
    for seed in arguments.seeds.split(","):
        for name in CELLS:
            rows = runs.setdefault(name, {}).setdefault(seed, {})
            missing = [row for row in arguments.rows.split(";") if row not in rows]
            if not missing:
                continue
            cell = draw(arguments.data, name, int(seed))
            for row in missing:
                before = time.process_time()
                found = (
                    run_peer(cell, row)
                    if row in PEERS
                    else run_ours(cell, row, int(seed))
                )
                found["CPU seconds"] = round(time.process_time() - before, 2)
                rows[row] = found
                common.write(arguments.json, runs=runs)
                print(f"{name}, seed {seed}, {row}: {found}", flush=True)
    print(f"\n{to_table(runs)}\n\n{to_ap_table(runs)}")


if __name__ == "__main__":
    main()
