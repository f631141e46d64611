"""Batches of data sets that are on the devices."""

import types
from collections.abc import Iterator, Mapping

import chex

from autodo_jax.data.batches.batch import ImageShape, IndexedBatch
from autodo_jax.data.batches.plan import BatchPlan

_AS_THEY_ARE: Mapping[str, ImageShape | None] = types.MappingProxyType({})


class ResidentBatches:
    """Data sets on the devices, from which a step gathers its points by index."""

    def __init__(
        self,
        plan: BatchPlan,
        parts: Mapping[str, tuple[chex.Array, chex.Array]],
        steps_per_dispatch: int = 1,
        image_shapes: Mapping[str, ImageShape | None] = _AS_THEY_ARE,
    ):
        """Holds parts that are on the devices already.

        Args:
          plan: of the run.
          parts: part -> images and labels.
          steps_per_dispatch: K, training steps in one call to the devices.
          image_shapes: part -> what `pack` says of its images; none: not packed.
        """
        self._plan, self._parts, self._image_shapes = plan, parts, image_shapes
        self._steps_per_dispatch = steps_per_dispatch

    def batches(
        self, phase: str, epoch: int, start: int = 0
    ) -> Iterator[tuple[IndexedBatch, ...]]:
        """Yields the points of each step of a phase, from step `start` on.

        If K > 1, training gets the points of K steps at once, and fewer at the end.
        """
        order, length = self._plan.order(phase, epoch), self._plan.length(phase)
        num_steps = self._steps_per_dispatch if phase in ("task", "hyper") else 1
        for step in range(start, length, num_steps):
            at = slice(step, step + num_steps) if num_steps > 1 else step
            yield tuple(
                IndexedBatch(
                    *self._parts[part], index[at], self._image_shapes.get(part)
                )
                for part, index in order.items()
            )
