"""Trains a plain model with the weights and soft labels that a run has learned.

    python examples/recipes/retrain_sklearn.py runs/digits/autodo-seed0 [WORKDIR ...]

Logistic regression on pixels. Each train point of dataset.csv counts with its weight,
divided among its soft labels. For comparison, the same model is trained on the given
labels, and both with the clean validation set added, which the run has used.

It prints the test error in %, mean +- standard deviation over the workdirs.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import autodo_jax
from autodo_jax.data import run_data
from autodo_jax.workdir.run import load_config


class Points(NamedTuple):
    """The training data of a model."""

    images: np.ndarray  # uint8 [N, H, W, channels]
    weights: np.ndarray  # [N]
    soft_labels: np.ndarray  # [N, C], rows sum to 1


Fit = Callable[[Points], Callable[[np.ndarray], np.ndarray]]


def fit(points: Points) -> Callable[[np.ndarray], np.ndarray]:
    """Returns images -> predicted classes."""
    # scikit-learn takes one label a point, so a point with two labels is repeated.
    row, label = np.nonzero(points.soft_labels)
    weights = points.weights[row] * points.soft_labels[row, label]
    pixels = points.images.reshape(len(points.images), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(pixels[row], label, logisticregression__sample_weight=weights)
    return lambda images: model.predict(images.reshape(len(images), -1))


def compare(workdir: pathlib.Path, fit: Fit) -> dict[str, float]:
    """Returns training data -> test error in % of a model."""
    config = load_config(workdir)
    points = run_data.load(config)  # Split and distorted as in the run.
    train, validation, test = points.splits
    report = autodo_jax.load_dataset_report(workdir)
    one_hot = np.eye(points.num_classes)
    plain = np.ones(len(train.labels))
    clean = Points(
        validation.pixels(), np.ones(len(validation.labels)), one_hot[validation.labels]
    )
    given = Points(train.pixels(), plain, one_hot[train.labels])
    learned = Points(
        train.pixels(), report.weight, report.soft_labels(train.class_names)
    )
    sets = {
        "given labels": given,
        "learned weights and labels": learned,
        "validation set alone": clean,
        "given labels + validation set": join(given, clean),
        "learned + validation set": join(learned, clean),
    }
    return {
        name: 100 * float(np.mean(fit(points)(test.pixels()) != test.labels))
        for name, points in sets.items()
    }


def join(first: Points, second: Points) -> Points:
    """Returns the points of both."""
    return Points(*map(np.concatenate, zip(first, second, strict=True)))


def main(workdirs: Sequence[str], fit: Fit = fit) -> dict[str, list[float]]:
    """Prints and returns the errors over the workdirs."""
    runs = [compare(pathlib.Path(workdir), fit) for workdir in workdirs]
    errors = {name: [run[name] for run in runs] for name in runs[0]}
    for name, values in errors.items():
        spread = f" +- {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        print(f"{name:<30}{np.mean(values):5.1f}{spread}")
    return errors


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} WORKDIR [WORKDIR ...]")
    main(sys.argv[1:])
