"""Checks of the points of a source, made once before training."""

import collections

import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.images.decode import check_size
from autodo_jax.errors import DataError

_BLOCK = 65536  # rows of features that are checked at once


def check(parts: SourceSplits, *, channels: int) -> None:
    """Refuses points that cannot be trained on.

    Args:
      parts: as loaded.
      channels: of the images.

    Raises:
      DataError: no points; images that are not uint8 [N, H, W, channels], or differ in
        size from the train set; features that are not finite floats [N, D]; labels that
        are not integers in 0..C-1, one for each image; ids that are not unique; a class
        without a train point.
    """
    named = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    for name, part in named.items():
        # The test set may be empty.
        if part is None or (name == "test" and not len(part.labels)):
            continue
        if parts.train.has_features:
            _check_features(name, part, parts.train.images.shape[1])
        else:
            _check_images(name, part, channels)
            names = str(part.ids[0]), str(parts.train.ids[0])
            shapes = part.images.shape[1:], parts.train.images.shape[1:]
            check_size(names[0], shapes[0], names[1], shapes[1])
        _check_labels(name, part)
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


def _check_features(name: str, part: Dataset, width: int) -> None:
    features = part.images
    shape = tuple(features.shape)
    if len(shape) != 2 or not all(shape) or shape[1] != width:
        raise DataError(
            f"the {name} features have shape {shape}, expected [N, {width}], with at "
            "least 1 point, as those of the train set have"
        )
    if not np.issubdtype(features.dtype, np.floating):
        raise DataError(f"the {name} features are {features.dtype}, expected floats")
    for start in range(0, shape[0], _BLOCK):  # They may be on the disk.
        is_finite = np.isfinite(features[start : start + _BLOCK]).all(axis=1)
        if not is_finite.all():
            row = start + int(np.argmin(is_finite))
            raise DataError(
                f"the {name} features of point {part.ids[row]} are not finite"
            )


def _check_images(name: str, part: Dataset, channels: int) -> None:
    images = part.images
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


def _check_labels(name: str, part: Dataset) -> None:
    labels, ids, num_points = part.labels, part.ids, len(part.images)
    for what, values in (("labels", labels), ("ids", ids)):
        if values.shape != (num_points,):
            kind = "point" if part.has_features else "image"
            raise DataError(
                f"there are {what} of shape {values.shape} for {num_points} {name} "
                f"{kind}s, expected [{num_points}], one for each {kind}"
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
