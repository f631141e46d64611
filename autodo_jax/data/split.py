"""The stratified split into train, validation and test (Sec. 5.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.errors import DataError


class Splits(NamedTuple):
    """Three data sets, disjoint except in ablations of the validation set."""

    train: Dataset
    validation: Dataset
    test: Dataset


def stratified(
    labels: np.ndarray,
    size: float,
    *,
    seed: int,
    class_names: Sequence[str] = (),
    copies: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divides points into two parts with the same shares of the classes.

    Args:
      labels: [N].
      size: of the second part: a share of the points if below 1, else their number.
      seed: of the shuffle; same seed, same parts.
      class_names: for messages.
      copies: int [N], the same for points that stay together; None: all differ. Sizes
        then count such groups, whose label is that of their first point.

    Returns:
      Indices of the first and of the second part, each in ascending order.

    Raises:
      DataError: a class with too few points to be in both parts.
    """
    if copies is not None:
        _, first = np.unique(copies, return_index=True)
        if len(first) < len(labels):
            first = np.sort(first)
            _, taken = stratified(
                labels[first], size, seed=seed, class_names=class_names
            )
            is_taken = np.isin(copies, copies[first[taken]])
            return np.flatnonzero(~is_taken), np.flatnonzero(is_taken)
    from sklearn.model_selection import train_test_split  # It takes a second to import.

    lonely = np.flatnonzero(np.bincount(labels) == 1)
    if len(lonely):
        listed = ", ".join(
            str(class_names[label]) if class_names else str(label)
            for label in lonely[:5]
        )
        raise DataError(
            f"the class {listed} has a single point, which cannot be in two parts",
            "add some",
            "leave the class out",
            "bring the parts yourself",
        )
    try:
        kept, taken = train_test_split(
            np.arange(len(labels)),
            test_size=size if size < 1 else int(size),
            stratify=labels,
            random_state=seed,
        )
    except ValueError as error:
        raise DataError(f"the data cannot be split: {error}") from error
    return np.sort(kept), np.sort(taken)


def subset(
    labels: np.ndarray, data: ml_collections.ConfigDict, limit: str, *, seed: int
) -> np.ndarray:
    """Returns the indices of a stratified part of data[limit] points; 0 means all.

    Args:
      labels: [N].
      data: config.data.
      limit: "max_train_points" or "max_test_points".
      seed: of the choice.

    Raises:
      DataError: so few points are asked for that a class would have none.
    """
    if not 0 < data[limit] < len(labels):
        return np.arange(len(labels))
    from sklearn.utils import resample

    # train_test_split would require that the rest has points of each class too.
    chosen = resample(
        np.arange(len(labels)),
        replace=False,
        n_samples=data[limit],
        stratify=labels,
        random_state=seed,
    )
    missing = len(np.unique(labels)) - len(np.unique(labels[chosen]))
    if missing:
        raise DataError(
            f"config.data.{limit} is {data[limit]}, which leaves {missing} of the "
            "classes without a point",
            "ask for more",
            "0 for all",
        )
    return np.sort(chosen)


def stratified_split(
    parts: SourceSplits,
    *,
    test_size: float,
    validation_size: float,
    seed: int,
    copies: np.ndarray | None = None,
) -> Splits:
    """Splits the parts that a source lacks from its train part, the test set first.

    Args:
      parts: as loaded.
      test_size: a share of all points if below 1, else their number; 0: no test set.
      validation_size: likewise, of the points that are not in the test set.
      seed: of the shuffles.
      copies: of the train part, as `stratified` takes it.

    Raises:
      DataError: a class with too few points to be in each part.
    """

    def split_off(
        part: Dataset, name: str, size: float, copies: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        names = part.class_names
        try:
            return stratified(
                part.labels, size, seed=seed, class_names=names, copies=copies
            )
        except DataError as error:
            reason = f"config.data.{name} is {size}: {error.reason}"
            raise DataError(reason, *error.advice) from error

    train, validation, test = parts
    if test is None and not test_size:
        test = train.take(np.arange(0))
    if test is None:
        kept, taken = split_off(train, "test_size", test_size, copies)
        train, test = train.take(kept), train.take(taken)
        copies = None if copies is None else copies[kept]
    if validation is None:
        kept, taken = split_off(train, "validation_size", validation_size, copies)
        train, validation = train.take(kept), train.take(taken)
    return Splits(train, validation, test)
