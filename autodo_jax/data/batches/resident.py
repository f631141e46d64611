"""Batches of data sets that live on the devices."""

from collections.abc import Iterator, Mapping

import chex

from autodo_jax.data.batches.batch import IndexedBatch
from autodo_jax.data.batches.plan import BatchPlan


class ResidentBatches:
    """Data sets on the devices, where a step takes its points by their index."""

    def __init__(
        self,
        plan: BatchPlan,
        parts: Mapping[str, tuple[chex.Array, chex.Array]],
        steps_per_dispatch: int = 1,
    ):
        """Args: the plan; images and labels of each part, on the devices; K."""
        self._plan, self._parts = plan, parts
        self._steps_per_dispatch = steps_per_dispatch

    def batches(
        self, phase: str, epoch: int, start: int = 0
    ) -> Iterator[tuple[IndexedBatch, ...]]:
        """Yields what each step of a phase takes, from step `start` on.

        Training takes K steps at once if K > 1, the last time what is left.
        """
        order, length = self._plan.order(phase, epoch), self._plan.length(phase)
        num_steps = self._steps_per_dispatch if phase in ("task", "hyper") else 1
        for step in range(start, length, num_steps):
            at = slice(step, step + num_steps) if num_steps > 1 else step
            yield tuple(
                IndexedBatch(*self._parts[part], index[at])
                for part, index in order.items()
            )
