"""Progress over epochs: a bar on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable
from typing import Any

import tqdm.auto

from autodo_jax.errors import AutodoError


class EpochProgress:
    """Context that shows loss, errors and time left after each epoch."""

    def __init__(
        self,
        num_epochs: int,
        show: str = "lines",
        word: Callable[[AutodoError], str] = str,
    ):
        """Shows nothing yet.

        Args:
          num_epochs: of the run.
          show: "lines", one an epoch; "bar"; or "nothing".
          word: how the front end words warnings, see `errors`.
        """
        self._num_epochs = num_epochs
        self._word = word
        self._quiet = show == "nothing"
        self._first = 0
        self._start = time.monotonic()
        self._bar: Any = None
        if show == "bar":
            self._bar = tqdm.auto.tqdm(total=num_epochs, unit="epoch")

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, done: int) -> None:
        """Begins after the epochs that are done already."""
        self._first, self._start = done, time.monotonic()
        if self._bar is not None:
            self._bar.update(done)

    def update(self, record: dict[str, Any]) -> None:
        """Shows the metrics of an epoch."""
        summary = (
            f"loss {record['train_loss']:.3f}, validation {record['val_error']:.2f} %"
        )
        if not math.isnan(record["test_error"]):
            summary += f", test {record['test_error']:.2f} %"
        if "outer_loss" in record:
            summary += f", outer loss {record['outer_loss']:.3f}"
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(summary, refresh=False)
            self._bar.update()
            return
        done = record["epoch"]
        each = (time.monotonic() - self._start) / (done - self._first)
        left = each * (self._num_epochs - done)
        print(
            f"epoch {done}/{self._num_epochs}: {summary}, {left:.0f} s left", flush=True
        )

    def message(self, text: str) -> None:
        """Shows a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif not self._quiet:
            print(text, flush=True)

    def warn(self, warning: AutodoError) -> None:
        """Shows a warning in the words of the front end."""
        self.message(self._word(warning))
