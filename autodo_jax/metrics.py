"""Metrics of an epoch and of a whole run, computed on arrays in memory."""

from typing import NamedTuple

import numpy as np


class Evaluation(NamedTuple):
    """Losses and predictions of a data set, in the order of its points."""

    losses: np.ndarray  # [N], cross-entropy on the labels
    predictions: np.ndarray  # [N], classes
    confidences: np.ndarray  # [N], probabilities of the predictions
    labels: np.ndarray  # [N]

    @property
    def loss(self) -> float:
        """Mean cross-entropy; NaN without points."""
        return _mean(self.losses)

    @property
    def error(self) -> float:
        """Top-1 error in percent; NaN without points."""
        return 100 * _mean(self.predictions != self.labels)

    @property
    def noise_score(self) -> np.ndarray:
        """Probability of all classes except the label, [N] in [0, 1].

        The higher it is, the more suspect is the label. This score, a function of the
        network's loss, ranks wrong labels no worse than soft labels and weights, which
        also change for other reasons (docs/results.md).
        """
        return -np.expm1(-self.losses.astype(np.float64))

    def class_error(self, num_classes: int) -> list[float]:
        """Top-1 error of each class in percent; NaN for a class without points."""
        wrong = self.predictions != self.labels
        points = np.bincount(self.labels, minlength=num_classes)
        errors = np.bincount(self.labels, weights=wrong, minlength=num_classes)
        with np.errstate(invalid="ignore"):
            return (100 * errors / points).tolist()


def noise_auroc(scores: np.ndarray, is_flipped: np.ndarray) -> float | None:
    """Area under the ROC curve of `scores` for `is_flipped`.

    None if all points are flipped, or none.
    """
    if is_flipped.all() or not is_flipped.any():
        return None
    from sklearn.metrics import roc_auc_score  # It takes a second to import.

    return float(roc_auc_score(is_flipped, scores))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
