"""The points of a step, as pixels or as rows of a data set on the devices."""

from typing import NamedTuple

import chex
import jax.numpy as jnp


class Batch(NamedTuple):
    """Points of one step; `index` is -1 for padding, which is never counted."""

    image: chex.Array  # uint8 [B, H, W, C], or inputs of the head [B, D]
    label: chex.Array  # int32 [B]
    index: chex.Array  # int32 [B], row of the point in its data set


class IndexedBatch(NamedTuple):
    """Points of one step, or of K steps, as rows of a data set on the devices."""

    images: chex.Array  # uint8 [N, H, W, C], or inputs of the head [N, D]
    labels: chex.Array  # int32 [N]
    index: chex.Array  # int32 [B] or [K, B], -1 for padding


Points = Batch | IndexedBatch


def take(images: chex.Array, labels: chex.Array, index: chex.Array) -> Batch:
    """Gathers the points `index` [B] of a resident data set."""
    row = jnp.maximum(index, 0)
    return Batch(images[row], labels[row], index)
