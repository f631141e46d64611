"""Hands the suspects of a run to cleanlab as label issues.

    python examples/recipes/hand_to_cleanlab.py runs/digits/autodo-seed0

cleanlab trains any scikit-learn model without the label issues that it is given, and
prints its own summary of classes. Needs cleanlab (`pip install cleanlab`).
"""

import pathlib
import sys

import cleanlab.classification
import cleanlab.dataset
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

import autodo_jax
from autodo_jax.data import run_data
from autodo_jax.workdir.run import load_config


def main(workdir: str, threshold: float = 0.5) -> pd.DataFrame:
    """Trains without the suspects; returns cleanlab's table of label issues."""
    folder = pathlib.Path(workdir)
    report = autodo_jax.load_dataset_report(folder)
    train, _, test = run_data.load(load_config(folder)).splits
    number = {name: label for label, name in enumerate(train.class_names)}
    issues = pd.DataFrame(
        {
            "is_label_issue": report.noise_score > threshold,
            "label_quality": 1 - report.noise_score,
            "given_label": [number[name] for name in report.given_label],
            "predicted_label": [number[name] for name in report.suggested_label],
        }
    )
    pixels = [
        part.pixels().reshape(len(part.labels), -1) / 255 for part in (train, test)
    ]
    for name, given in (("all points", None), ("without the suspects", issues)):
        if given is None:
            model = LogisticRegression(max_iter=1000).fit(pixels[0], train.labels)
        else:
            model = cleanlab.classification.CleanLearning(
                LogisticRegression(max_iter=1000)
            )
            model.fit(pixels[0], train.labels, label_issues=given)
        error = 100 * np.mean(model.predict(pixels[1]) != test.labels)
        print(f"test error, {name}: {error:.1f} %")
    soft_labels = report.soft_labels(train.class_names)
    print(cleanlab.dataset.rank_classes_by_label_quality(train.labels, soft_labels))
    return issues


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} WORKDIR")
    main(sys.argv[1])
