"""The order in which the steps of a run see the points.

It is a function of (seed, phase, epoch) alone. So nothing has to be saved to resume a
run, and the order depends neither on the number of devices nor on where the data are.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

# Part of the seeds, so that the three orders differ.
_TASK_STREAM, _HYPER_STREAM, _VALIDATION_STREAM = range(3)


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The steps of a run: the phases of each epoch, and the points of each step.

    The phases of an epoch are "task" (Algorithm 1, line 3), "hyper" (line 11),
    "validation" and "test". After the last epoch, "train" and "test" are evaluated for
    the result.

    Attributes:
      num_points: of each part, "train", "validation", "test", "fit", where theta
        learns, if that is not the train set, and "joined", the train and the validation
        set, if clean points join.
      batch_size: B, of the task and hyper steps; smaller parts than that, but for the
        train set, give each step as many points as the devices can share.
      eval_batch_size: largest number of points in a step of the other phases.
      num_devices: the size of each step is a multiple of it.
      epochs: passes over the train set.
      start_epoch: E, epochs before the first with hyper steps; `epochs` for none.
      seed: of the order.
      joined_epochs: the last ones, in which theta learns from the part "joined" and
        there are no hyper steps.
      plain_epochs: the last ones of these, in which g_A changes no image.
      joined_points: those of the part "joined" in these epochs, some of them several
        times; None: each once.
      early_points: likewise, in the epochs before; None: the train set.
      outer_points: the validation points of the hyper steps, [M']; None: all.
    """

    num_points: Mapping[str, int]
    batch_size: int
    eval_batch_size: int
    num_devices: int
    epochs: int
    start_epoch: int
    seed: int
    joined_epochs: int = 0
    plain_epochs: int = 0
    joined_points: np.ndarray | None = None
    early_points: np.ndarray | None = None
    outer_points: np.ndarray | None = None

    def is_first_joined(self, epoch: int) -> bool:
        """True of the first epoch in which all clean points take part."""
        return bool(self.joined_epochs) and epoch == self.epochs - self.joined_epochs

    def is_last_hyper(self, epoch: int) -> bool:
        """True of the last epoch with hyper steps."""
        return "hyper" in self.phases(epoch) and "hyper" not in self.phases(epoch + 1)

    def is_joined(self, epoch: int) -> bool:
        """True of an epoch in which all clean points take part."""
        return bool(self.joined_epochs) and epoch >= self.epochs - self.joined_epochs

    def is_plain(self, epoch: int) -> bool:
        """True of an epoch in which images are not augmented by g_A."""
        return bool(self.plain_epochs) and epoch >= self.epochs - self.plain_epochs

    @property
    def num_steps(self) -> int:
        """Number of task steps in an epoch, and of hyper steps: by the train set."""
        return self.num_points["train"] // self.batch_size

    def phases(self, epoch: int) -> tuple[str, ...]:
        """Returns the phases of an epoch in their order.

        Args:
          epoch: from 0; `epochs` means the evaluation after the last.
        """
        if epoch == self.epochs:
            return ("train", "validation", "test")
        learns = epoch >= self.start_epoch and not self.is_joined(epoch)
        hyper = ("hyper",) if learns else ()
        return ("task", *hyper, "validation", "test")

    def length(self, phase: str) -> int:
        """Returns the number of steps of a phase."""
        if phase in ("task", "hyper"):
            return self.num_steps
        return -(-self.num_points[phase] // self._eval_size(phase))

    def order(self, phase: str, epoch: int) -> dict[str, np.ndarray]:
        """Returns part -> its points in each step, int32 [steps, B].

        Only evaluations pad their last step, with -1.
        """
        if phase == "task":
            part = "fit" if "fit" in self.num_points else "train"
            chosen = None
            if self.is_joined(epoch):
                part, chosen = "joined", self.joined_points
            elif self.early_points is not None:
                part, chosen = "joined", self.early_points
            return {part: self._shuffled(part, _TASK_STREAM, epoch, chosen)}
        if phase == "hyper":
            outer = self.outer_points
            return {
                "train": self._shuffled("train", _HYPER_STREAM, epoch),
                "validation": self._shuffled(
                    "validation", _VALIDATION_STREAM, epoch, outer
                ),
            }
        return {phase: sequential_order(self.num_points[phase], self._eval_size(phase))}

    def _eval_size(self, part: str) -> int:
        size = min(self.eval_batch_size, self.num_points[part])
        return -(-size // self.num_devices) * self.num_devices

    def _shuffled(
        self, part: str, stream: int, epoch: int, chosen: np.ndarray | None = None
    ) -> np.ndarray:
        num_points = self.num_points[part] if chosen is None else len(chosen)
        shared = num_points // self.num_devices * self.num_devices
        order = shuffled_order(
            num_points,
            min(self.batch_size, shared),
            self.num_steps,
            seed=(self.seed, stream, epoch),
        )
        return order if chosen is None else chosen[order].astype(np.int32)


@functools.lru_cache(maxsize=8)  # Readers ask for one step at a time.
def shuffled_order(
    num_points: int, batch_size: int, num_steps: int, *, seed: tuple[int, ...]
) -> np.ndarray:
    """Returns indices [num_steps, batch_size] from as many random passes as needed.

    Each pass is a permutation cut to whole batches, so no batch holds a point twice.
    """
    rng = np.random.default_rng(seed)
    per_pass = num_points // batch_size
    passes = -(-num_steps // per_pass)
    orders = [
        rng.permutation(num_points)[: per_pass * batch_size] for _ in range(passes)
    ]
    order = np.concatenate(orders).reshape(-1, batch_size)
    order = order[:num_steps].astype(np.int32)
    order.flags.writeable = False
    return order


def sequential_order(num_points: int, batch_size: int) -> np.ndarray:
    """Returns 0..num_points-1 in rows of `batch_size`, the last one padded with -1."""
    index = np.arange(-(-num_points // batch_size) * batch_size, dtype=np.int32)
    return np.where(index < num_points, index, -1).reshape(-1, batch_size)
