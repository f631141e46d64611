"""What a run notes beside its state, and when both are saved."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import ml_collections
import numpy as np

from autodo_jax import processes
from autodo_jax.train.setup import RunError
from autodo_jax.train.state import TrainState

# Steps between two looks at the clock of the first process, which the others wait for.
_CLOCK_STEPS = 32
_MAIN = ("train_loss", "grad_norm", "outer_loss", "hypergrad_norm", "lambda_norm")
_RATES = ("learning_rate", "hyper_learning_rate")
# Steps whose metrics are fetched at once, which then are looked at.
_FETCH_STEPS = 32
# Dispatches under way at once. With more than 32 several devices of the CPU backend
# wait for each other forever.
MAX_IN_FLIGHT = 8
_ADVICE = {
    "task": "--config.task.learning_rate, or bound its gradient by "
    "--config.task.clip_norm",
    "hyper": "--config.hyper.learning_rate, or bound its updates by "
    "--config.hyper.max_update",
}

Metrics = dict[str, chex.Array]
History = dict[str, list[dict[str, float]]]


@dataclasses.dataclass
class Journal:
    """Where a run stands, and the numbers it has collected.

    Attributes:
      records: lines of metrics.jsonl, of the finished epochs.
      history: metrics of each step of the epoch under way, by phase, of those that are
        fetched from the devices.
      pending: phase and metrics of the steps behind them, oldest first, those of one
        dispatch together.
      step: task and hyper steps behind the run, in all.
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
        """The epoch under way, from 0."""
        return len(self.records)

    def seconds(self) -> float:
        """Seconds of training, over all starts."""
        return self.former_seconds + time.monotonic() - self._start

    def num_steps(self, phase: str) -> int:
        """Returns the steps of the epoch under way that are behind the run."""
        pending = (_num_steps(values) for name, values in self.pending if name == phase)
        return len(self.history[phase]) + sum(pending)

    def end_steps(self, phase: str, values: Metrics) -> None:
        """Notes the metrics of a dispatch, and now and then fetches earlier ones.

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

    def fetch(self, other: Any = ()) -> tuple[dict[str, list[dict[str, float]]], Any]:
        """Returns the metrics of the epoch under way, and `other` on the host.

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
        # What else is measured follows from these.
        wrong = [name for name in _MAIN if name in wrong] or wrong
        seen = [*self.records[-1:], *self.history["task"][-1:], values]
        rates = {name: last[name] for last in seen for name in _RATES if name in last}
        at = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items() if rate)
        raise RunError(
            f"{', '.join(wrong)} not finite in epoch {self.epoch + 1}, {phase} step "
            f"{number + 1}, at {at}; lower {_ADVICE[phase]}, or find the operation by "
            "--config.debug_nans=True"
        )

    def _check_solve(self, number: int, values: Mapping[str, float]) -> None:
        if self.stop_on_divergence and values.get("diverged"):
            raise RunError(
                f"the linear solve diverges in epoch {self.epoch + 1}, hyper step "
                f"{number + 1}: residual {values['residual_norm']:.3g}; "
                + advice_on_divergence(values["lambda_max"])
            )

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Notes the metrics of an epoch."""
        self.records.append(record)
        self.history, self.pending = _empty_history(), []

    def to_json(self) -> dict[str, Any]:
        """Returns the journal as JSON can hold it; `Journal.from_json` reads it.

        Raises:
          RunError: a metric is not finite: such a state is not one to go on from.
        """
        return {
            "data": self.data,
            "records": self.records,
            "history": self.fetch()[0],
            "step": self.step,
            "seconds": self.seconds(),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Journal":
        """Returns the journal that `to_json` was called on."""
        names = ("data", "records", "history", "step", "seconds")
        return cls(*(saved[name] for name in names))


def advice_on_divergence(lambda_max: float) -> str:
    """Returns how to mend a Neumann series that diverges."""
    bound = 2 / max(lambda_max, 1e-30)
    return (
        f"a Neumann series needs a step_size < 2 / lambda_max = {bound:.3g}; "
        "lower --config.hyper.step_size or pass --config.hyper.auto_step_size=True"
    )


def _num_steps(values: Metrics) -> int:
    return next(iter(values.values())).size


def _empty_history() -> History:
    return {"task": [], "hyper": []}


class Keeper:
    """Context that saves a run as often as its configuration says."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        folder: pathlib.Path,
        warn: Callable[[str], None] = print,
    ):
        """Args: the configuration; the folder of the checkpoints; who is warned."""
        self._config, self._folder, self._warn = config, folder, warn
        self._checkpoints: Any = None
        self._last = time.monotonic()
        self._interval = 0

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close(after_error=error_type is not None)

    def restore(self, state: TrainState, data: str) -> tuple[TrainState, Journal]:
        """Returns the newest saved state with its journal, or `state` and an empty one.

        Args:
          state: at the start of the run.
          data: fingerprint of the points.

        Raises:
          RunError: a checkpoint of other data, or behind the last epoch.
          CheckpointError: a checkpoint that cannot be read.
        """
        stops = self._config.hyper.on_divergence == "stop"
        new = Journal(data, stop_on_divergence=stops)
        if not processes.decided_by_first(self._folder.exists()):
            return state, new
        restored = self._open().restore(state)
        if restored is None:
            self._warn(f"warning: no whole checkpoint in {self._folder}: starts anew")
            return state, new
        state, journal = restored[0], Journal.from_json(restored[1])
        journal.stop_on_divergence = stops
        if journal.epoch > self._config.epochs:
            raise RunError(
                f"config.epochs is {self._config.epochs}, but {journal.epoch} epochs "
                f"are saved in {self._folder}; pass as many or more, or --overwrite"
            )
        if journal.data != data:
            raise RunError(
                f"the data are not those of the checkpoints in {self._folder}: other "
                "images or labels; restore them, or pass --overwrite or --workdir"
            )
        self._warn(f"goes on from the checkpoint in epoch {journal.epoch + 1}")
        return state, journal

    def after_step(self, state: TrainState, journal: Journal) -> None:
        """Saves where `checkpoint_minutes` have passed since the last time."""
        interval = journal.step // _CLOCK_STEPS
        is_new, self._interval = interval != self._interval, interval
        if (is_new or jax.process_count() == 1) and self._is_time():
            self.save(state, journal)

    def after_epoch(self, state: TrainState, journal: Journal) -> None:
        """Saves where `checkpoint_every` epochs or `checkpoint_minutes` have passed."""
        every = self._config.checkpoint_every
        if (every and journal.epoch % every == 0) or self._is_time():
            self.save(state, journal)

    def save(
        self, state: TrainState, journal: Journal, *, and_wait: bool = False
    ) -> None:
        """Saves, in the background unless told to wait.

        Raises:
          CheckpointError: this or the checkpoint before it could not be written.
          RunError: a state that is not finite.
        """
        self._last = time.monotonic()
        errors = [record["val_error"] for record in journal.records[-1:]] or [100.0]
        checkpoints = self._open()
        checkpoints.save(journal.step, state, journal.to_json(), val_error=errors[0])
        if and_wait:
            checkpoints.wait()

    def _is_time(self) -> bool:
        minutes = self._config.checkpoint_minutes
        passed = time.monotonic() - self._last
        return bool(minutes and processes.decided_by_first(int(passed >= 60 * minutes)))

    def _open(self) -> Any:
        if self._checkpoints is None:
            from autodo_jax.workdir import checkpoint  # Orbax takes its time to import.

            self._checkpoints = checkpoint.Checkpoints(
                self._folder, keep=self._config.checkpoint_keep, warn=self._warn
            )
        return self._checkpoints
