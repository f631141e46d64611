"""Progress over epochs: a bar on a terminal, plain lines elsewhere."""

import math
from collections.abc import Callable
from typing import Any

import tqdm.auto

from autodo_jax.errors import AutodoError, printable

# Seconds of an epoch with the outer loop over those of one without, about: it takes as
# many hyper steps as task steps.
_OUTER_FACTOR = 2.0


def in_words(seconds: float) -> str:
    """Returns a duration in minutes, or hours and minutes."""
    minutes = math.ceil(seconds / 60)
    if minutes < 2:
        return "1 min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def _usual(seconds: list[float]) -> float | None:
    known = seconds[1:] or seconds
    return sum(known) / len(known) if known else None


class EpochProgress:
    """Context that shows loss, errors and time left after each epoch."""

    def __init__(
        self,
        num_epochs: int,
        show: str = "lines",
        word: Callable[[AutodoError], str] = str,
        start_epoch: int | None = None,
    ):
        """Shows nothing yet.

        Args:
          num_epochs: of the run.
          show: "lines", one an epoch; "bar"; or "nothing".
          word: how the front end words warnings, see `errors`.
          start_epoch: epochs before the outer loop, which slows the later ones; None
            where there is none.
        """
        self._start_epoch = num_epochs if start_epoch is None else start_epoch
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        self._num_epochs = num_epochs
        self._word = word
        self._quiet = show == "nothing"
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
        done = record["epoch"]
        self._seconds[done > self._start_epoch].append(record["seconds"])
        if done < self._num_epochs:
            summary += f", {in_words(self.seconds_left(done))} left"
        if self._bar is not None:
            self._bar.set_postfix_str(summary, refresh=False)
            self._bar.update()
            return
        print(f"epoch {done}/{self._num_epochs}: {summary}", flush=True)

    def seconds_left(self, done: int) -> float:
        """Returns an estimate for the epochs that are left.

        Those with the outer loop count as those before, times a usual factor, until one
        is known. The first epoch of each kind, which compiles, counts while it is the
        only one.

        Args:
          done: epochs so far.
        """
        plain, outer = (_usual(self._seconds[kind]) for kind in (False, True))
        if plain is None:
            plain = 0.0 if outer is None else outer / _OUTER_FACTOR
        if outer is None:
            outer = _OUTER_FACTOR * plain
        num_plain = max(self._start_epoch - done, 0)
        return num_plain * plain + (self._num_epochs - done - num_plain) * outer

    def message(self, text: str) -> None:
        """Shows a line without disturbing the bar."""
        text = printable(text)
        if self._bar is not None:
            self._bar.write(text)
        elif not self._quiet:
            print(text, flush=True)

    def warn(self, warning: AutodoError) -> None:
        """Shows a warning in the words of the front end."""
        self.message(self._word(warning))
