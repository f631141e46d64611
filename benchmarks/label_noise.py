"""Compares how autodo_jax, cleanlab and naive methods find the same wrong labels.

    python benchmarks/label_noise.py --json=benchmarks/results/label-noise-digits.json
    python benchmarks/label_noise.py --data_dir=PATH --seeds=0
        --json=benchmarks/results/label-noise-folder.json

Digits, or 4,000 images of CIFAR-10 as a folder (configs/cifar10_jpeg.py), without class
imbalance. The labels of 10 % or 40 % of the train points are redrawn (uniform), or
those of 20 % are moved to the next class (pair). Every row scores the same train points
with their given labels. Rows:

    autodo_s, autodo      noise_score of dataset.csv, by the trained network
      soft label, weight  the learned S or W alone
      frozen              the control: Lambda kept at its start
    cleanlab              out-of-sample probabilities of five folds, by logistic
                          regression on pixels (more than 128: on their principal
                          components) and by the network of `baseline`
    in-sample loss        the network of `baseline`, trained on all points
    10 nearest            share of the neighbours (pixels) with another label
    ... + validation      the row also learns from the clean validation set, since
                          autodo uses it too
    ... validation alone  the row learns from the clean validation set only

AUROC, average precision (AP), lift (precision among as many top-ranked points as there
are wrong labels, over their share), precision and recall at each method's default.
"""

import argparse
import json
import pathlib
import platform
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cleanlab.filter
import cleanlab.rank
import jax
import ml_collections
import numpy as np
import tabulate
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import autodo_jax
from autodo_jax.data import run_data
from autodo_jax.train import loop
from autodo_jax.train.setup import prepare
from autodo_jax.workdir import files

NOISES = {"uniform 10 %": ("uniform", 0.1), "uniform 40 %": ("uniform", 0.4)}
NOISES["pair 20 %"] = ("pair", 0.2)
OURS = "autodo_s"  # the row that the others are compared with, chosen on other seeds
NUM_FOLDS, NUM_NEIGHBOURS, NUM_COMPONENTS = 5, 10, 128
FIGURES = ("AUROC", "AP", "lift", "precision", "recall")

Arrays = tuple[np.ndarray, np.ndarray]  # images, labels


class Scored(NamedTuple):
    """Points ranked by a row: `score` [N], higher is worse; bool [N], its suspects."""

    score: np.ndarray
    suspects: np.ndarray


def configuration(data_dir: str | None, method: str) -> ml_collections.ConfigDict:
    """Returns the configuration of a method on digits, or on a folder."""
    folder = "cifar10_jpeg" if data_dir else "digits"
    path = pathlib.Path(__file__).parents[1] / "configs" / f"{folder}.py"
    config = runpy.run_path(str(path))["get_config"](method)
    config.data.imbalance_ratio = 1.0
    config.data.validation_size = 0.2 if data_dir else 0.3
    config.task.joined_epochs = 0
    if data_dir:
        config.data.data_dir = data_dir
    return config


def figures(scored: Scored, is_wrong: np.ndarray) -> dict[str, float]:
    """Returns how well a row finds the wrong labels [N]."""
    score, suspects = scored
    num_wrong = int(is_wrong.sum())
    top = np.argsort(-score, kind="stable")[:num_wrong]
    found = (suspects & is_wrong).sum()
    return {
        "AUROC": float(roc_auc_score(is_wrong, score)),
        "AP": float(average_precision_score(is_wrong, score)),
        "lift": float(is_wrong[top].mean() / is_wrong.mean()),
        "precision": float(found / max(suspects.sum(), 1)),
        "recall": float(found / num_wrong),
    }


def run_ours(config: ml_collections.ConfigDict) -> dict[str, Scored]:
    """Trains a method and its frozen control; returns the scores of each."""
    rows = {}
    for control in ("", ", frozen"):
        config.hyper.frozen = bool(control)
        with tempfile.TemporaryDirectory() as folder:
            finished = loop.run(*prepare(config), pathlib.Path(folder))
            with np.load(pathlib.Path(folder) / files.HYPERPARAMS) as tables:
                soft_label = tables.get("label")
        report = finished.report
        name = config.method + control
        rows[name] = Scored(report.noise_score, report.noise_score > 0.5)
        if soft_label is not None:
            labels = finished.setup.data.splits.train.labels
            odds = np.exp(soft_label - soft_label.max(axis=1, keepdims=True))
            given = odds[np.arange(len(labels)), labels] / odds.sum(axis=1)
            rows[f"{name}: soft label"] = Scored(1 - given, given < 0.5)
        if config.hyper.weights:
            rows[f"{name}: weight"] = Scored(-report.weight, report.weight < 0.5)
    return rows


def run_others(
    points: run_data.RunData,
    fit_network: Callable[[Arrays], Callable[[np.ndarray], np.ndarray]],
) -> dict[str, Scored]:
    """Returns the scores of every peer, without and with the validation set."""
    train, validation, _ = points.splits
    given = (train.pixels(), train.labels)
    clean = (validation.pixels(), validation.labels)
    rows: dict[str, Scored] = {}
    for more, extra in (
        ("", (clean[0][:0], clean[1][:0])),
        (" + validation", clean),
    ):
        for name, fit in (
            ("logistic regression", fit_logistic_regression),
            ("network", fit_network),
        ):
            probability = out_of_sample(fit, given, extra)
            rows[f"cleanlab, {name}{more}"] = Scored(
                1 - cleanlab.rank.get_label_quality_scores(train.labels, probability),
                cleanlab.filter.find_label_issues(train.labels, probability, n_jobs=1),
            )
        predict = fit_network(joined(given, extra))
        score = 1 - of_labels(predict(given[0]), train.labels)
        rows[f"in-sample loss{more}"] = Scored(score, score > 0.5)
        score = disagreement(given, joined(given, extra), itself=True)
        rows[f"10 nearest{more}"] = Scored(score, score > 0.5)
    # These do not learn from the labels in question.
    score = 1 - of_labels(fit_network(clean)(given[0]), train.labels)
    rows["network of validation alone"] = Scored(score, score > 0.5)
    score = disagreement(given, clean, itself=False)
    rows["10 nearest of validation alone"] = Scored(score, score > 0.5)
    return rows


def joined(first: Arrays, second: Arrays) -> Arrays:
    """Returns the points of both."""
    images, labels = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    return images, labels


def of_labels(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the probability of each point's label, [N]."""
    return probability[np.arange(len(labels)), labels]


def out_of_sample(fit: Callable, given: Arrays, extra: Arrays) -> np.ndarray:
    """Returns probabilities [N, C], of each fold by a fit to the others."""
    images, labels = given
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    probability = np.zeros((len(labels), labels.max() + 1))
    for kept, held_out in folds.split(images, labels):
        predict = fit(joined((images[kept], labels[kept]), extra))
        probability[held_out] = predict(images[held_out])
    return probability


def fit_logistic_regression(points: Arrays) -> Callable[[np.ndarray], np.ndarray]:
    """Fits a model to pixels; returns images -> probabilities [N, C]."""
    images, labels = points
    # Large images are reduced first, since their pixels would take minutes a fold.
    is_large = images[0].size > NUM_COMPONENTS
    reduce = [PCA(NUM_COMPONENTS, random_state=0)] if is_large else []
    model = make_pipeline(StandardScaler(), *reduce, LogisticRegression(max_iter=1000))
    model.fit(images.reshape(len(images), -1) / 255, labels)
    return lambda images: model.predict_proba(images.reshape(len(images), -1) / 255)


def network_fitter(config: ml_collections.ConfigDict, validation: Arrays) -> Callable:
    """Returns a function that fits the network of `baseline`.

    The validation set is only evaluated.
    """

    def fit(points: Arrays) -> Callable[[np.ndarray], np.ndarray]:
        return autodo_jax.optimize_dataset(
            points, validation, config=config, progress=False
        ).predict

    return fit


def disagreement(given: Arrays, among: Arrays, *, itself: bool) -> np.ndarray:
    """Returns the share of each point's nearest neighbours that have another label.

    Args:
      given: the points.
      among: the points that may be neighbours.
      itself: whether `among` begins with `given`; no point is its own neighbour.
    """
    flat = [points[0].reshape(len(points[0]), -1) / 255 for points in (given, among)]
    search = NearestNeighbors(n_neighbors=NUM_NEIGHBOURS + itself).fit(flat[1])
    found = search.kneighbors(flat[0], return_distance=False)
    if itself:
        found = np.array(
            [row[row != i][:NUM_NEIGHBOURS] for i, row in enumerate(found)]
        )
    return (among[1][found] != given[1][:, None]).mean(axis=1)


def run(data_dir: str | None, noise: str, seed: int) -> dict[str, dict[str, float]]:
    """Returns the figures of all rows on one draw of the labels."""
    kind, ratio = NOISES[noise]

    def configured(method: str) -> ml_collections.ConfigDict:
        config = configuration(data_dir, method)
        config.seed = seed
        config.data.noise_kind, config.data.noise_ratio = kind, ratio
        return config

    rows: dict[str, Scored] = {}
    for method in ("autodo_s", "autodo"):
        rows |= run_ours(configured(method))
    baseline = configured("baseline")
    points = run_data.load(baseline)
    # These points are chosen, and their labels changed, already.
    baseline.data.max_train_points = baseline.data.max_test_points = 0
    baseline.data.noise_ratio = 0.0
    baseline.data.allow_overlap = True
    validation = points.splits.validation
    fit = network_fitter(baseline, (validation.pixels(), validation.labels))
    rows |= run_others(points, fit)
    return {name: figures(scored, points.is_flipped) for name, scored in rows.items()}


def to_table(runs: dict[str, dict[str, dict[str, float]]]) -> str:
    """Returns a Markdown table over the runs of one kind of noise, by their seeds."""
    lines = []
    for row in next(iter(runs.values())):
        line = {"row": row}
        for name in FIGURES:
            line[name] = spread([run[row][name] for run in runs.values()])
        ahead = [run[OURS]["AP"] - run[row]["AP"] for run in runs.values()]
        line[f"AP of {OURS} above"] = "" if row == OURS else spread(ahead, sign="+")
        lines.append(line)
    return tabulate.tabulate(lines, "keys", "github", disable_numparse=True)


def spread(values: list[float], sign: str = "") -> str:
    """Returns mean ± sample standard deviation, or the mean of a single value."""
    text = f"{np.mean(values):{sign}.3f}"
    return f"{text} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else text


def main() -> None:
    """Prints the tables and keeps the figures of each seed; skips seeds done before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", required=True, type=pathlib.Path)
    parser.add_argument("--data_dir", help="CIFAR-10 as a folder or an archive")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--noises", default=",".join(NOISES))
    arguments = parser.parse_args()
    record: dict[str, Any] = {"runs": {}}
    if arguments.json.exists():
        record = json.loads(arguments.json.read_text())
    record |= {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.processor() or platform.machine(),
        "versions": {"jax": jax.__version__, "cleanlab": cleanlab.__version__},
    }
    for noise in arguments.noises.split(","):
        runs = record["runs"].setdefault(noise, {})
        for seed in arguments.seeds.split(","):
            if seed not in runs:
                began = time.monotonic()
                runs[seed] = run(arguments.data_dir, noise, int(seed))
                arguments.json.write_text(json.dumps(record, indent=1) + "\n")
                seconds = time.monotonic() - began
                print(f"{noise}, seed {seed}: {seconds:.0f} s", file=sys.stderr)
        print(f"\n{noise}, {len(runs)} seeds\n\n{to_table(runs)}")


if __name__ == "__main__":
    main()
