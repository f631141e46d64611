"""The log of a run: its progress, and the metrics of its steps and epochs."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from autodo_jax._typing import Metrics
from autodo_jax.errors import RunError

_MAIN = ("train_loss", "grad_norm", "outer_loss", "hypergrad_norm", "lambda_norm")
_RATES = ("learning_rate", "hyper_learning_rate")
# Steps whose metrics are fetched, and looked at, together.
_FETCH_STEPS = 32
# Dispatches under way at once. With more than 32, several devices of the CPU backend
# wait for each other forever.
MAX_IN_FLIGHT = 8
_ADVICE = {
    "task": (
        "lower <config.task.learning_rate>",
        "bound its gradient by <config.task.clip_norm>",
    ),
    "hyper": (
        "lower <config.hyper.learning_rate>",
        "bound its updates by <config.hyper.max_update>",
    ),
}

History = dict[str, list[dict[str, float]]]


@dataclasses.dataclass
class RunLog:
    """The progress of a run, and its metrics so far.

    Attributes:
      records: metrics of the finished epochs.
      history: metrics of each step of the current epoch, by phase, as far as they are
        fetched from the devices.
      pending: phase and metrics of the steps after those, oldest first, those of one
        dispatch together.
      step: task and hyper steps done, in all.
      data: fingerprint of the points.
      former_seconds: of the starts before this one.
      stop_on_divergence: whether a linear solve that diverges ends the run.
    """

    data: str = ""
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    history: History = dataclasses.field(default_factory=lambda: _empty_history())
    step: int = 0
    former_seconds: float = 0.0
    stop_on_divergence: bool = False
    pending: list[tuple[str, Metrics]] = dataclasses.field(default_factory=list)
    _start: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return len(self.records)

    @property
    def is_stopped(self) -> bool:
        """True where the last epoch said that no other is worth its time."""
        return bool(self.records) and bool(self.records[-1].get("stopped"))

    def seconds(self) -> float:
        """Seconds of training, over all starts."""
        return self.former_seconds + time.monotonic() - self._start

    def num_steps(self, phase: str) -> int:
        """Returns the number of steps of the current epoch that are done."""
        pending = (_num_steps(values) for name, values in self.pending if name == phase)
        return len(self.history[phase]) + sum(pending)

    def end_steps(self, phase: str, values: Metrics) -> None:
        """Adds the metrics of a dispatch, and now and then fetches earlier ones.

        Args:
          phase: of its steps.
          values: scalars of one step, or arrays [K] of K steps.

        Raises:
          RunError: those of an earlier step are not finite.
        """
        before = self.num_steps(phase)
        self.pending.append((phase, values))
        self.step += _num_steps(values)
        if before // _FETCH_STEPS < self.num_steps(phase) // _FETCH_STEPS:
            self._take(MAX_IN_FLIGHT)  # All others are done: nothing waits.

    def fetch(self, other: Any = ()) -> tuple[History, Any]:
        """Returns the metrics of the current epoch, and `other` on the host.

        Args:
          other: pytree of arrays, fetched from the devices at the same time.

        Raises:
          RunError: one is not finite, or a linear solve diverges that should not;
            names the first step where that is so.
        """
        return self.history, self._take(0, other)

    def _take(self, num_left: int, other: Any = ()) -> Any:
        """Fetches, at once, pending metrics but the last `num_left`, and `other`."""
        done = self.pending[: max(len(self.pending) - num_left, 0)]
        self.pending = self.pending[len(done) :]
        fetched, other = jax.device_get(([values for _, values in done], other))
        for (phase, _), values in zip(done, fetched, strict=True):
            for one in zip(*map(np.ravel, values.values()), strict=True):
                steps = self.history[phase]
                steps.append(dict(zip(values, map(float, one), strict=True)))
                self._check_finite(phase, len(steps) - 1)
                self._check_solve(len(steps) - 1, steps[-1])
        return other

    def _check_finite(self, phase: str, number: int) -> None:
        values = self.history[phase][number]
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        # Other metrics follow from these.
        wrong = [name for name in _MAIN if name in wrong] or wrong
        seen = [*self.records[-1:], *self.history["task"][-1:], values]
        rates = {name: last[name] for last in seen for name in _RATES if name in last}
        at = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items() if rate)
        raise RunError(
            f"{', '.join(wrong)} not finite in epoch {self.epoch + 1}, {phase} step "
            f"{number + 1}, at {at}",
            *_ADVICE[phase],
            "find the operation by <config.debug_nans=True>",
        )

    def _check_solve(self, number: int, values: Mapping[str, float]) -> None:
        if self.stop_on_divergence and values.get("diverged"):
            raise divergence_error(
                f"the linear solve diverges in epoch {self.epoch + 1}, hyper step "
                f"{number + 1}: residual {values['residual_norm']:.3g}",
                values["lambda_max"],
            )

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Adds the metrics of an epoch."""
        self.records.append(record)
        self.history, self.pending = _empty_history(), []

    def to_json(self) -> dict[str, Any]:
        """Returns the log as JSON can hold it; `RunLog.from_json` reads it.

        Raises:
          RunError: a metric is not finite: no run should continue from such a state.
        """
        return {
            "data": self.data,
            "records": self.records,
            "history": self.fetch()[0],
            "step": self.step,
            "seconds": self.seconds(),
        }

    @classmethod
    def from_json(
        cls, saved: Mapping[str, Any], *, stop_on_divergence: bool = False
    ) -> "RunLog":
        """Returns the log that `to_json` was called on."""
        return cls(
            data=saved["data"],
            records=saved["records"],
            history=saved["history"],
            step=saved["step"],
            former_seconds=saved["seconds"],
            stop_on_divergence=stop_on_divergence,
        )


def divergence_error(reason: str, lambda_max: float) -> RunError:
    """Returns the error, or the warning, of a Neumann series that diverges."""
    bound = 2 / max(lambda_max, 1e-30)
    return RunError(
        f"{reason}: a Neumann series needs a step_size < 2 / lambda_max = {bound:.3g}",
        "lower <config.hyper.step_size>",
        "pass <config.hyper.auto_step_size=True>",
    )


def _num_steps(values: Metrics) -> int:
    return next(iter(values.values())).size


def _empty_history() -> History:
    return {"task": [], "hyper": []}
