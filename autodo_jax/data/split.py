"""The stratified split into train, validation and test (Sec. 5.1)."""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from autodo_jax.data.sources import Dataset


class Splits(NamedTuple):
    """Three disjoint data sets."""

    train: Dataset
    validation: Dataset
    test: Dataset


def stratified_split(
    dataset: Dataset, *, test_fraction: float, validation_fraction: float, seed: int
) -> Splits:
    """Splits off the test set, then the validation set from what remains.

    Args:
      dataset: all points.
      test_fraction: share of all points, in (0, 1).
      validation_fraction: share of the points that are not in the test set, in (0, 1).
      seed: of the shuffle; same seed, same split.

    Raises:
      ValueError: a class with too few points to be in each part.
    """

    def split_off(part: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
        index = np.arange(len(part.labels))
        kept, taken = train_test_split(
            index, test_size=fraction, stratify=part.labels, random_state=seed
        )
        return part.take(np.sort(kept)), part.take(np.sort(taken))

    rest, test = split_off(dataset, test_fraction)
    train, validation = split_off(rest, validation_fraction)
    return Splits(train, validation, test)
