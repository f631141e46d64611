"""Images, or features, and labels in memory, as `optimize_dataset` takes them."""

from typing import Any, NoReturn

import ml_collections
import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.errors import DataError

Arrays = tuple[Any, Any]  # (images or features, labels)


def load(data: ml_collections.ConfigDict, seed: int) -> NoReturn:
    """Raises DataError, since a command line cannot pass arrays."""
    raise DataError(
        "config.data.source=arrays is for autodo_jax.optimize_dataset",
        "pass another source",
    )


def to_splits(
    train: Arrays, validation: Arrays, test: Arrays | None = None
) -> SourceSplits:
    """Returns points with their positions as ids; without `test`, an empty test set.

    Args:
      train, validation, test: images [N, H, W] or [N, H, W, channels] of 1 or 3
        channels, uint8 or floating in [0, 1], or features [N, D], floating; labels
        [N], integers from 0 on.

    Raises:
      DataError: anything else.
    """
    given = {"train": train, "validation": validation}
    if test is not None:
        given["test"] = test
    images, labels = {}, {}
    for name, part in given.items():
        images[name] = to_points(name, pair(name, part)[0])
        labels[name] = _labels(name, part[1])
    num_classes = 1 + max(int(part.max()) for part in labels.values())
    if num_classes > len(labels["train"]):
        raise DataError(
            f"the labels go up to {num_classes - 1}, but {len(labels['train'])} train "
            f"points cannot have more than {len(labels['train'])} classes",
            "number the classes from 0 on by np.unique(labels, return_inverse=True)",
        )
    class_names = tuple(str(label) for label in range(num_classes))
    parts = {
        name: Dataset(
            images=images[name],
            labels=labels[name],
            ids=np.array([f"{name}_{i}" for i in range(len(labels[name]))]),
            class_names=class_names,
        )
        for name in given
    }
    parts.setdefault("test", parts["validation"].take(np.arange(0)))
    return SourceSplits(**parts)


def pair(name: str, part: Any) -> Arrays:
    """Returns a pair of images and labels, neither of which is checked.

    Raises:
      DataError: it is not a pair.
    """
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise DataError(f"`{name}` must be a pair (images, labels)")
    return part[0], part[1]


def to_points(name: str, values: Any) -> np.ndarray:
    """Returns features as they are, floats [N, D], or images as `to_images` does.

    Raises:
      DataError: anything else.
    """
    points = _array(f"{name} images", values)
    if points.ndim != 2:
        return to_images(name, values)
    if not np.issubdtype(points.dtype, np.floating):
        raise DataError(
            f"the {name} images have shape {points.shape} and are {points.dtype}, "
            "expected [N, H, W] or [N, H, W, channels], or features, floats [N, D]"
        )
    if not points.size:
        raise DataError(
            f"the {name} features are {points.dtype} of shape {points.shape}, expected "
            "[N, D], both at least 1"
        )
    return points


def to_images(name: str, values: Any) -> np.ndarray:
    """Returns images as uint8 [N, H, W, channels].

    Args:
      name: for messages.
      values: as `to_splits` takes them.

    Raises:
      DataError: anything else.
    """
    images = _array(f"{name} images", values)
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
        raise DataError(
            f"the {name} images have shape {shape}, expected [N, H, W] or "
            "[N, H, W, channels], all of them at least 1, with 1 or 3 channels"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(
            f"the {name} images are {images.dtype}, expected uint8, or floats in [0, 1]"
        )
    lowest, highest = images.min(), images.max()
    if not (lowest >= 0 and highest <= 1):  # NaN is refused too.
        raise DataError(
            f"the {name} images are floats in [{lowest:g}, {highest:g}], expected "
            "[0, 1]",
            "scale them",
            "pass uint8 in 0..255",
        )
    return np.round(255 * images).astype(np.uint8)


def _labels(name: str, values: Any) -> np.ndarray:
    labels = _array(f"{name} labels", values)
    if labels.ndim != 1 or not len(labels):
        raise DataError(
            f"the {name} labels have shape {labels.shape}, expected [N], one for each "
            "image"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"the {name} labels are {labels.dtype}, expected integers 0..C-1",
            "number the classes by np.unique(labels, return_inverse=True)",
        )
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= 2**31 - 1:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"a {name} label is {wrong}, expected integers 0..C-1")
    return labels.astype(np.int32)


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # Arrays of other libraries raise errors of any kind.
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the {name} are not an array: {reason}") from error
