"""Errors that a user can act on: the reason, and apart from it the advice.

The same error may end a command or a call of `optimize_dataset`, whose users have other
words for the same option. So advice names options in angle brackets, `<workdir>` or
`<config.epochs=20>`, and each front end words them: `str(error)` for Python,
`for_command_line(error)` for flags.
"""

import argparse
import re
import shlex
from collections.abc import Callable
from typing import Any, NoReturn

_OPTION = re.compile(
    r"<(again|data_dir|method|overwrite|source|threshold|workdir|config(?:\.\w+)+)"
    r"(?:=([^<>]*))?>"
)

_MAX_WORD, _MAX_TEXT = 300, 4000  # characters


class AutodoError(Exception):
    """An error with a reason and with alternatives that solve it.

    Attributes:
      reason: what is wrong, in words that hold in every front end.
      advice: alternatives, each a clause with options in angle brackets: `<workdir>`,
        `<overwrite>`, `<config.field>`, `<config.field=value>`, `<method=autodo>`, and
        `<again>` for the same command or call.
    """

    def __init__(self, reason: str, *advice: str):
        super().__init__(reason)
        self.reason = reason
        self.advice = advice

    def __str__(self) -> str:
        return _worded(self, _in_python)

    def __reduce__(self) -> tuple:  # For worker processes.
        return type(self), (self.reason, *self.advice)


class UsageError(AutodoError):
    """A command that cannot be run as it is given."""


class ConfigError(AutodoError, ValueError):
    """A configuration that cannot be used."""


class DataError(AutodoError, ValueError):
    """Data that is absent or cannot be used."""


class AbsentError(DataError):
    """No archive of the data set is where it is looked for."""


class ModelError(AutodoError, ValueError):
    """A user's network that does not fulfil the contract of `optimize_dataset`."""


class WorkdirError(AutodoError, ValueError):
    """A folder that this run cannot use."""


class RunFilesError(AutodoError, ValueError):
    """Files of a workdir that cannot be read."""


class ExportError(AutodoError, ValueError):
    """A run, or a target, that cannot be exported."""


class RunError(AutodoError):
    """Training that cannot start or continue."""


class WriteError(AutodoError, OSError):
    """A file that cannot be written."""


class CheckpointError(AutodoError, OSError):
    """A state that cannot be saved or read."""


class LostPeerError(AutodoError):
    """Another process of the run has ended or cannot be reached."""


class Interrupted(AutodoError):
    """The run was asked to stop by the signal `signum` and has saved its state."""

    def __init__(self, reason: str, *advice: str, signum: int):
        super().__init__(reason, *advice)
        self.signum = signum

    def __reduce__(self) -> tuple:
        return _interrupted, (self.signum, self.reason, *self.advice)


def for_command_line(error: Exception) -> str:
    """Returns the message of an error, its advice in terms of flags."""
    if isinstance(error, AutodoError):
        return _worded(error, _on_command_line)
    return printable(str(error))


def _interrupted(signum: int, reason: str, *advice: str) -> Interrupted:
    return Interrupted(reason, *advice, signum=signum)


def _worded(error: AutodoError, word: Callable[[str, str | None], str | None]) -> str:
    """Joins reason and advice, without alternatives that a front end does not have.

    Args:
      word: (option, value or None) -> its words, or None where there is no such option.
    """
    alternatives = []
    for clause in error.advice:
        words = [word(*match.groups()) for match in _OPTION.finditer(clause)]
        if None not in words:
            given = iter(words)
            alternatives.append(_OPTION.sub(lambda _: str(next(given)), clause))  # noqa: B023
    advice = ", or ".join(alternatives)
    return printable(f"{error.reason}; {advice}" if advice else error.reason)


def printable(text: str) -> str:
    """Returns a text of one line, its control characters escaped.

    Names of files and classes may hold sequences that a terminal obeys. Long words, and
    long texts, are cut in the middle.
    """
    if len(text) > 2 * _MAX_TEXT:  # More would be escaped for nothing.
        text = _cut(text, 2 * _MAX_TEXT)
    escaped = "".join(
        char if char.isprintable() or char == " " else ascii(char)[1:-1]
        for char in text
    )
    words = [_cut(word, _MAX_WORD) for word in escaped.split(" ")]
    return _cut(" ".join(words), _MAX_TEXT)


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors quote arguments, perhaps names of files, printable."""

    # What the user has typed in place of `python -m MODULE`, as "autodo report".
    called = ""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog=self.called or prog, **options)

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _cut(text: str, size: int) -> str:
    """Returns a text of `size` characters, or a few more, its middle left out."""
    left_out = len(text) - size
    if left_out <= 0:
        return text
    half = size // 2
    return f"{text[:half]}...[{left_out:,} characters]...{text[-half:]}"


def _in_python(option: str, value: str | None) -> str | None:
    if option == "overwrite":
        return None
    if option == "again":
        return "the same call"
    if option == "method":
        return f"autodo_jax.config.apply_method(config, {value!r})"
    if not option.startswith("config."):
        return f"`{option}`"
    return option if value is None else f"{option} = {value}"


def _on_command_line(option: str, value: str | None) -> str | None:
    if option == "again":
        return "the same command"
    if option == "method":
        return f"--config=FILE:{value}"
    return f"--{option}" if value is None else f"--{option}={_quoted(value)}"


def _quoted(value: str) -> str:
    # Placeholders such as PATH and values without spaces stay as they are.
    return shlex.quote(value) if re.search(r"[\s()'\"]", value) else value
