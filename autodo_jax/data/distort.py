"""The distortions of the train set: class imbalance and label noise (Sec. 5.1)."""

import numpy as np

from autodo_jax.data.dataset import Dataset


def imbalance(
    dataset: Dataset, ratio: float, num_classes: int, rng: np.random.Generator
) -> Dataset:
    """Makes the upper half of the classes rare (IR).

    Classes C/2..C-1 together keep (points of classes 0..C/2-1) / `ratio` points, spread
    over these classes as evenly as their sizes allow; a ratio of 1 changes nothing.

    Args:
      dataset: undistorted points.
      ratio: IR >= 1.
      num_classes: C.
      rng: chooses the points that stay.
    """
    if ratio == 1:
        return dataset
    labels = dataset.labels
    frequent = np.flatnonzero(labels < num_classes // 2)
    num_kept = round(len(frequent) / ratio)
    # Round i holds the i-th point of each rare class; the first rounds stay.
    order = rng.permutation(np.flatnonzero(labels >= num_classes // 2))
    rounds = np.zeros(len(order), np.int64)
    for label in range(num_classes // 2, num_classes):
        members = labels[order] == label
        rounds[members] = np.arange(members.sum())
    rare = order[np.argsort(rounds, kind="stable")][:num_kept]
    return dataset.take(np.sort(np.concatenate([frequent, rare])))


def flip_labels(
    labels: np.ndarray,
    ratio: float,
    num_classes: int,
    rng: np.random.Generator,
    kind: str = "uniform",
) -> np.ndarray:
    """Returns labels, int32 [N], a share `ratio` of which is changed (NR).

    Args:
      labels: [N].
      ratio: NR in [0, 1].
      num_classes: C.
      rng: chooses the points, the same for each kind, and draws the labels.
      kind: "uniform" redraws over all C classes (Sec. 5.1), so that one in C of the
        chosen points keeps its label; "pair" changes y to y + 1, and C - 1 to 0.
    """
    chosen = rng.permutation(len(labels))[: round(ratio * len(labels))]
    noisy = labels.copy()
    if kind == "pair":
        noisy[chosen] = (labels[chosen] + 1) % num_classes
    else:
        noisy[chosen] = rng.integers(0, num_classes, len(chosen))
    return noisy
