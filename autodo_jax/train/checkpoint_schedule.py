"""The times at which a run is saved, and the state it continues from."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from autodo_jax import processes
from autodo_jax.errors import RunError
from autodo_jax.train.run_log import RunLog
from autodo_jax.train.state import TrainState

# Steps between two looks at the clock of the first process, for which the others wait.
_CLOCK_STEPS = 32


class CheckpointSchedule:
    """Context that saves a run as often as its configuration says."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        folder: pathlib.Path,
        warn: Callable[[str], None] = print,
    ):
        """Args: the configuration; the folder of the checkpoints; the way to warn."""
        self._config, self._folder, self._warn = config, folder, warn
        self._checkpoints: Any = None
        self._last = time.monotonic()
        self._interval = 0

    def __enter__(self) -> "CheckpointSchedule":
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close(after_error=error_type is not None)

    def restore(self, state: TrainState, data: str) -> tuple[TrainState, RunLog]:
        """Returns the newest saved state with its log, or `state` and an empty one.

        Args:
          state: at the start of the run.
          data: fingerprint of the points.

        Raises:
          RunError: a checkpoint of other data, or of more epochs than configured.
          CheckpointError: a checkpoint that cannot be read.
        """
        stops = self._config.hyper.on_divergence == "stop"
        new = RunLog(data, stop_on_divergence=stops)
        if not processes.broadcast_from_first(self._folder.exists()):
            return state, new
        restored = self._open().restore(state)
        if restored is None:
            self._warn(
                f"warning: no whole checkpoint in {self._folder}: starts from the "
                "beginning"
            )
            return state, new
        state, log = (
            restored[0],
            RunLog.from_json(restored[1], stop_on_divergence=stops),
        )
        if log.epoch > self._config.epochs:
            raise RunError(
                f"config.epochs is {self._config.epochs}, but {log.epoch} epochs are "
                f"saved in {self._folder}",
                f"pass <config.epochs={log.epoch}> or more",
                "another <workdir>",
            )
        if log.data != data:
            raise RunError(
                f"the data are not those of the checkpoints in {self._folder}: other "
                "images or labels",
                "restore them",
                "pass another <workdir>",
            )
        self._warn(f"continues from the checkpoint in epoch {log.epoch + 1}")
        return state, log

    def after_step(self, state: TrainState, log: RunLog) -> None:
        """Saves where `checkpoint_minutes` have passed since the last time."""
        interval = log.step // _CLOCK_STEPS
        is_new, self._interval = interval != self._interval, interval
        if (is_new or jax.process_count() == 1) and self._is_time():
            self.save(state, log)

    def after_epoch(self, state: TrainState, log: RunLog) -> None:
        """Saves where `checkpoint_every` epochs or `checkpoint_minutes` have passed."""
        every = self._config.checkpoint_every
        if (every and log.epoch % every == 0) or self._is_time():
            self.save(state, log)

    def save(self, state: TrainState, log: RunLog, *, and_wait: bool = False) -> None:
        """Saves, in the background unless told to wait.

        Raises:
          CheckpointError: this or the checkpoint before it could not be written.
          RunError: a state that is not finite.
        """
        self._last = time.monotonic()
        errors = [record["val_error"] for record in log.records[-1:]] or [100.0]
        checkpoints = self._open()
        checkpoints.save(log.step, state, log.to_json(), validation_error=errors[0])
        if and_wait:
            checkpoints.wait()

    def _is_time(self) -> bool:
        minutes = self._config.checkpoint_minutes
        passed = time.monotonic() - self._last
        return bool(
            minutes and processes.broadcast_from_first(int(passed >= 60 * minutes))
        )

    def _open(self) -> Any:
        if self._checkpoints is None:
            # Orbax takes seconds to import.
            from autodo_jax.workdir import checkpoint

            self._checkpoints = checkpoint.Checkpoints(
                self._folder, keep=self._config.checkpoint_keep, warn=self._warn
            )
        return self._checkpoints
