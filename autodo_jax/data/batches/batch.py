"""The points of a step, as pixels or as rows of a data set on the devices."""

import dataclasses
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np


class Batch(NamedTuple):
    """Points of one step; `index` is -1 for padding, which is never counted."""

    image: chex.Array  # uint8 [B, H, W, C], or inputs of the head [B, D]
    label: chex.Array  # int32 [B]
    index: chex.Array  # int32 [B], row of the point in its data set


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ImageShape:
    """The shape of images that are kept as rows of pixels."""

    height: int
    width: int
    channels: int


class IndexedBatch(NamedTuple):
    """Points of one step, or of K steps, as rows of a data set on the devices."""

    # uint8 [N, H, W, C], or their rows by `pack`, or inputs of the head [N, D]
    images: chex.Array
    labels: chex.Array  # int32 [N]
    index: chex.Array  # int32 [B] or [K, B], -1 for padding
    image_shape: ImageShape | None = None  # of images that are rows


Points = Batch | IndexedBatch

# A TPU keeps narrower images pixel by pixel, each pixel of all images together, and
# copies the whole set to take a batch; wider ones image by image.
_WIDE = 128


def pack(images: np.ndarray) -> tuple[np.ndarray, ImageShape | None]:
    """Lays images out so that a batch is taken without a copy of the set.

    Args:
      images: uint8 [N, H, W, C].

    Returns:
      Rows uint8 [N, R] with the shape of an image, R the next multiple of 128 above
      H W C; images of 128 or more columns as they are, and None.
    """
    number, *shape = images.shape
    if shape[1] >= _WIDE:
        return images, None
    rows = images.reshape(number, -1)
    missing = -rows.shape[1] % _WIDE
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)))
    return rows, ImageShape(*shape)


def take(
    images: chex.Array,
    labels: chex.Array,
    index: chex.Array,
    image_shape: ImageShape | None = None,
) -> Batch:
    """Gathers the points `index` [B] of a resident set, as in an `IndexedBatch`."""
    row = jnp.maximum(index, 0)
    taken = images[row]
    if image_shape is not None:
        shape = dataclasses.astuple(image_shape)
        taken = taken[:, : math.prod(shape)].reshape(-1, *shape)
    return Batch(taken, labels[row], index)
