"""Batches of data sets that do not fit into memory, read and decoded by Grain.

The steps of a run form one random-access sequence, whose element k is the k-th batch.
So readers prefetch across phases and epochs, and a run can be resumed at any step.
"""

import bisect
import collections
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from autodo_jax.data.batches.batch import Batch
from autodo_jax.data.batches.plan import BatchPlan
from autodo_jax.data.dataset import Dataset
from autodo_jax.errors import DataError

_THREADS, _BUFFERED = 4, 4  # threads that decode batches, and batches decoded ahead
_ON_DEVICE = 2  # batches sent ahead
# When a run ends early, Python frees its workers' shared memory, but warns of a leak.
_LEAK_WARNING = "ignore::UserWarning:multiprocessing.resource_tracker"


class Share(NamedTuple):
    """The part of each batch that this process reads."""

    process: int = 0  # number of this process
    num_processes: int = 1


_WHOLE = Share()


class BatchSource:
    """The batches of a whole run, for Grain: `source[k]` reads and decodes the k-th.

    An element has a `Batch` for each part that the step uses: images and labels of this
    process's share, and indices of the whole batch.
    """

    def __init__(self, plan: BatchPlan, parts: Mapping[str, Dataset], share: Share):
        """Args: the plan; its parts; the share that this process reads."""
        self._plan, self._share = plan, share
        self._points = {
            name: (part.images, part.labels) for name, part in parts.items()
        }
        self._phases = [
            (epoch, phase)
            for epoch in range(plan.epochs + 1)
            for phase in plan.phases(epoch)
        ]
        lengths = [plan.length(phase) for _, phase in self._phases]
        self._starts = [0, *itertools.accumulate(lengths)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, k: int) -> tuple[Batch, ...]:
        number = bisect.bisect_right(self._starts, k) - 1
        epoch, phase = self._phases[number]
        step = k - self._starts[number]
        return tuple(
            self._read(part, order[step])
            for part, order in self._plan.order(phase, epoch).items()
        )

    def position(self, phase: str, epoch: int, step: int) -> int:
        """Returns the k of a step of a phase."""
        return self._starts[self._phases.index((epoch, phase))] + step

    def _read(self, part: str, index: np.ndarray) -> Batch:
        images, labels = self._points[part]
        size = len(index) // self._share.num_processes
        own = index[self._share.process * size :][:size]
        rows = np.maximum(own, 0)
        decoded = (
            images[rows] if isinstance(images, np.ndarray) else images.decode(rows)
        )
        return Batch(decoded, labels[rows], index)


class StreamedBatches:
    """Batches that are decoded as they are needed."""

    def __init__(
        self,
        plan: BatchPlan,
        parts: Mapping[str, Dataset],
        *,
        to_device: Callable[[Batch], Batch],
        num_workers: int = 0,
        share: Share = _WHOLE,
    ):
        """Prepares the readers; they open files when batches are asked for.

        Args:
          plan: of the run.
          parts: the data sets by their names in the plan.
          to_device: starts the transfer of a batch.
          num_workers: processes that read and decode; 0 for threads of this one.
          share: of each batch that this process reads.

        Raises:
          DataError: Grain is not installed.
        """
        self._plan, self._to_device, self._num_workers = plan, to_device, num_workers
        self._source = BatchSource(plan, parts, share)
        self._grain = _import_grain()
        self._next = -1
        self._remaining: Iterator[Any] = iter(())
        self._sent: collections.deque[tuple[Batch, ...]] = collections.deque()

    def batches(
        self, phase: str, epoch: int, start: int = 0
    ) -> Iterator[tuple[Batch, ...]]:
        """Yields the points of each step of a phase, from step `start` on.

        The readers run ahead in the order of the plan; any other order restarts them.
        """
        first = self._source.position(phase, epoch, start)
        for position in range(first, first + self._plan.length(phase) - start):
            if position != self._next:
                self._remaining = self._open(position)
                self._next = position
                self._sent.clear()
            while len(self._sent) < _ON_DEVICE:
                element = next(self._remaining, None)
                if element is None:
                    break
                self._sent.append(tuple(map(self._to_device, element)))
            self._next += 1
            yield self._sent.popleft()

    def _open(self, position: int) -> Iterator[Any]:
        workers = self._num_workers
        dataset = self._grain.MapDataset.source(self._source)[position:]
        batches = dataset.to_iter_dataset(
            self._grain.ReadOptions(
                num_threads=1 if workers else _THREADS,
                prefetch_buffer_size=_BUFFERED // 2 if workers else _BUFFERED,
            )
        )
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain copies them to its workers.
                flags.FLAGS.mark_as_parsed()
            if _LEAK_WARNING not in sys.warnoptions:  # New processes inherit them.
                sys.warnoptions.append(_LEAK_WARNING)
            options = self._grain.MultiprocessingOptions(num_workers=workers)
            batches = batches.mp_prefetch(options, _init_worker)
        return iter(batches)


def _init_worker(number: int, num_workers: int) -> None:
    """Lets a worker end when its run ends, even if that is killed, and not before.

    A signal to all processes asks the run to stop. The worker ignores it, since the run
    saves its state first.
    """
    del number, num_workers
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    run = multiprocessing.parent_process()

    def end_with_run() -> None:
        if run is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=end_with_run, daemon=True).start()


def _import_grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise DataError(
            "images are streamed by Grain, which is not installed",
            "run pip install grain",
            "pass <config.data.stream=False>",
        ) from error
    return grain
