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
        """Mean cross-entropy."""
        return float(self.losses.mean())

    @property
    def error(self) -> float:
        """Top-1 error in percent."""
        return 100 * float(np.mean(self.predictions != self.labels))

    def class_error(self, num_classes: int) -> list[float]:
        """Top-1 error in percent of the points of each class; NaN for none."""
        wrong = self.predictions != self.labels
        points = np.bincount(self.labels, minlength=num_classes)
        errors = np.bincount(self.labels, weights=wrong, minlength=num_classes)
        with np.errstate(invalid="ignore"):
            return (100 * errors / points).tolist()


def noise_score(
    labels: np.ndarray,
    point_losses: np.ndarray,
    *,
    soft_labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Ranks train points by how wrong their given label looks; higher is worse.

    With soft labels one minus their mass on the given label; else with loss weights
    their negative; else the network's own loss on the given label.

    Args:
      labels: given labels, [N].
      point_losses: cross-entropy of the trained network on them, [N].
      soft_labels: y^S, [N, C].
      weights: w, [N].
    """
    if soft_labels is not None:
        return 1 - soft_labels[np.arange(len(labels)), labels]
    if weights is not None:
        return -weights
    return point_losses


def noise_auroc(scores: np.ndarray, is_flipped: np.ndarray) -> float | None:
    """Area under the ROC curve of `scores` for `is_flipped`; None for one kind only."""
    if is_flipped.all() or not is_flipped.any():
        return None
    return float(roc_auc_score(is_flipped, scores))
