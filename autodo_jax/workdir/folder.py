"""The folder of a run: whose it is, whether it is finished, how files are written.

One run at a time writes to it, and a file in it is whole or as it was before.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import filelock
import ml_collections

from autodo_jax import config as config_lib

_LOCK = ".lock"
# What a run leaves beside its checkpoints, and what is derived from it.
_RESULTS = (
    "result.json",
    "dataset.csv",
    "dataset.parquet",
    "hyperparams.npz",
    "report.npz",
    "report.html",
    "events.out.tfevents.*",
)


class WorkdirError(Exception):
    """A folder that this run cannot have; the message says what to change."""


class WriteError(OSError):
    """A file that cannot be written; the message says how to go on."""


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Context in which no other run writes to the folder, which is made if need be.

    The lock ends with the process, however that ends.

    Raises:
      WorkdirError: another run has it, or it cannot be written.
    """
    lock = filelock.FileLock(workdir / _LOCK, blocking=False)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise WorkdirError(
            f"another run is writing to {workdir}; wait until it has ended, stop it, "
            "or pass another --workdir"
        ) from error
    except OSError as error:
        raise _refused(workdir, error) from error
    try:
        yield
    finally:
        lock.release()


def is_finished(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, *, overwrite: bool
) -> bool:
    """Returns True where the folder holds this very run, finished.

    Raises:
      WorkdirError: a run with another configuration, finished or to be resumed.
    """
    if overwrite:
        return False
    finished = (workdir / "result.json").exists()
    if not finished and not (workdir / "checkpoints").exists():
        return False
    # A finished run is another one with other epochs, though it could be resumed so.
    may_change = config_lib.MAY_CHANGE - ({"config.epochs"} if finished else set())
    differing = [
        name
        for name in _differing_fields(workdir / "config.json", config)
        if name not in may_change
    ]
    if differing:
        raise WorkdirError(
            f"{workdir} holds {'a finished' if finished else 'an unfinished'} run with "
            f"another {', '.join(differing)}; pass another --workdir, or --overwrite "
            "to replace it"
        )
    return finished


def prepare(workdir: pathlib.Path, *, overwrite: bool) -> None:
    """Sees that the folder can be written; with `overwrite` removes what a run left.

    Raises:
      WorkdirError: a folder that cannot be written.
    """
    try:
        if overwrite:
            for name in _RESULTS:
                for path in workdir.glob(name):
                    path.unlink()
            _remove(workdir / "checkpoints")
        (workdir / "metrics.jsonl").touch()
    except OSError as error:
        raise _refused(workdir, error) from error


def write(path: pathlib.Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file by `save(file)`; until that is on the disk, `path` is as it was.

    Raises:
      WriteError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}; what was saved before is "
            "intact: mend the cause and run the same command again"
        ) from error


def write_text(path: pathlib.Path, text: str) -> None:
    """As `write`, of a text."""
    write(path, lambda file: file.write(text.encode()))


def to_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Returns JSON, where NaN, for what is not known, is null."""

    def without_nan(value: Any) -> Any:
        if isinstance(value, list):
            return [without_nan(each) for each in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    known = {name: without_nan(value) for name, value in values.items()}
    return json.dumps(known, indent=indent, allow_nan=False)


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder which, if that is cut short, does not look like one in use."""
    aside = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)


def _refused(workdir: pathlib.Path, error: OSError) -> WorkdirError:
    reason = error.strerror or str(error)
    return WorkdirError(f"cannot write to {workdir}: {reason}; pass another --workdir")


def _differing_fields(path: pathlib.Path, config: Any) -> list[str]:
    try:
        stored = config_lib.flatten(json.loads(path.read_text()), "config.")
    except (OSError, ValueError, AttributeError):
        return ["config.json (unreadable)"]
    given = config_lib.flatten(json.loads(config.to_json_best_effort()), "config.")
    names = stored.keys() | given.keys()
    return sorted(name for name in names if stored.get(name) != given.get(name))
