"""Checks of the points of a source, made once before training."""

import collections

import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.images.decode import check_size
from autodo_jax.errors import DataError


def check(parts: SourceSplits, *, channels: int) -> None:
    """Refuses points that cannot be trained on.

    Args:
      parts: as loaded.
      channels: of the images.

    Raises:
      DataError: no points; images that are not uint8 [N, H, W, channels], or differ in
        size from the train set; labels that are not integers in 0..C-1, one for each
        image; ids that are not unique; a class without a train point.
    """
    named = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    for name, part in named.items():
        # The test set may be empty.
        if part is not None and (name != "test" or len(part.labels)):
            _check_part(name, part, channels)
            names = str(part.ids[0]), str(parts.train.ids[0])
            shapes = part.images.shape[1:], parts.train.images.shape[1:]
            check_size(names[0], shapes[0], names[1], shapes[1])
    check_classes("train", parts.train, "add some", "leave out the class")


def check_classes(name: str, part: Dataset, *advice: str) -> None:
    """Raises DataError with `advice` if a class has no point."""
    counts = np.bincount(part.labels, minlength=len(part.class_names))
    missing = [part.class_names[label] for label in np.flatnonzero(counts == 0)]
    if missing:
        raise DataError(
            f"the {name} set has no points of class {', '.join(missing[:5])}"
            f"{' and others' * (len(missing) > 5)}",
            *advice,
        )


def _check_part(name: str, part: Dataset, channels: int) -> None:
    images, labels, ids = part.images, part.labels, part.ids
    shape = tuple(images.shape)
    if len(shape) != 4 or not all(shape):
        raise DataError(
            f"the {name} images have shape {shape}, expected [N, H, W, C], all of them "
            "at least 1"
        )
    if images.dtype != np.uint8:
        raise DataError(
            f"the {name} images are {images.dtype}, expected uint8 in 0..255",
            "convert them, for example by np.round(255 * images).astype(np.uint8)",
        )
    if shape[-1] != channels:
        raise DataError(
            f"the {name} images have {shape[-1]} channels, config.data.mean and "
            f"config.data.std have {channels}",
            "pass one number for each channel",
        )
    for what, values in (("labels", labels), ("ids", ids)):
        if values.shape != shape[:1]:
            raise DataError(
                f"there are {what} of shape {values.shape} for {shape[0]} {name} "
                f"images, expected [{shape[0]}], one for each image"
            )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"the {name} labels are {labels.dtype}, expected integers")
    num_classes = len(part.class_names)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"the {name} labels are in {labels.min()}..{labels.max()}, expected "
            f"0..{num_classes - 1} for {num_classes} classes"
        )
    if len(set(ids.tolist())) < len(ids):
        (twice, count), *_ = collections.Counter(ids.tolist()).most_common(1)
        raise DataError(
            f"{count} {name} points have the id {twice}", "ids must be unique"
        )
