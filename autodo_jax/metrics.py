"""What is measured after an epoch and at the end of a run, on arrays in memory."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score


class Evaluation(NamedTuple):
    """Losses and predictions of a data set in its order."""

    losses: np.ndarray  # [N], cross-entropy on the labels
    predictions: np.ndarray  # [N], classes
    confidences: np.ndarray  # [N], probabilities of the predictions
    labels: np.ndarray  # [N]

    @property
    def loss(self) -> float:
        """Mean cross-entropy; NaN for no points."""
        return _mean(self.losses)

    @property
    def error(self) -> float:
        """Top-1 error in percent; NaN for no points."""
        return 100 * _mean(self.predictions != self.labels)

    @property
    def noise_score(self) -> np.ndarray:
        """Probability of all classes but the label, [N] in [0, 1]: how suspect it is.

        The network's own loss ranks wrong labels no worse than soft labels and weights,
        which also move for other reasons (docs/results.md).
        """
        return -np.expm1(-self.losses.astype(np.float64))

    def class_error(self, num_classes: int) -> list[float]:
        """Top-1 error in percent of the points of each class; NaN for none."""
        wrong = self.predictions != self.labels
        points = np.bincount(self.labels, minlength=num_classes)
        errors = np.bincount(self.labels, weights=wrong, minlength=num_classes)
        with np.errstate(invalid="ignore"):
            return (100 * errors / points).tolist()


def noise_auroc(scores: np.ndarray, is_flipped: np.ndarray) -> float | None:
    """Area under the ROC curve of `scores` for `is_flipped`; None for one kind only."""
    if is_flipped.all() or not is_flipped.any():
        return None
    return float(roc_auc_score(is_flipped, scores))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
