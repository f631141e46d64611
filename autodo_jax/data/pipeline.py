"""Batches of a data set that lives on the device, and the order they come in.

The order is a function of (seed, stream, epoch) alone: nothing has to be saved to
resume a run, and it does not depend on the number of devices.
"""

from collections.abc import Iterator
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np


class Batch(NamedTuple):
    """Points of one step; `index` is -1 for padding, which counts nowhere."""

    image: chex.Array  # uint8 [B, H, W, C]
    label: chex.Array  # int32 [B]
    index: chex.Array  # int32 [B], row of the point in its data set


def take(images: chex.Array, labels: chex.Array, index: chex.Array) -> Batch:
    """Gathers the points `index` [B] of a resident data set."""
    row = jnp.maximum(index, 0)
    return Batch(images[row], labels[row], index)


def shuffled_order(
    num_points: int, batch_size: int, num_steps: int, *, seed: tuple[int, ...]
) -> np.ndarray:
    """Returns indices [num_steps, batch_size]: as many random passes as it takes.

    Each pass is a permutation cut to whole batches, so no batch holds a point twice.
    """
    rng = np.random.default_rng(seed)
    per_pass = num_points // batch_size
    passes = -(-num_steps // per_pass)
    orders = [
        rng.permutation(num_points)[: per_pass * batch_size] for _ in range(passes)
    ]
    order = np.concatenate(orders).reshape(-1, batch_size)
    return order[:num_steps].astype(np.int32)


def sequential_order(num_points: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yields the indices 0..num_points-1 in batches, the last one padded with -1."""
    for start in range(0, num_points, batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.where(index < num_points, index, -1)
