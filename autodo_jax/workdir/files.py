"""The files of a workdir: their names, their format, and how they are written.

A file is declared here once. Everything else refers to it by its declaration, as in
`workdir / files.RESULT`.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

from autodo_jax.disk import json_text, regular
from autodo_jax.errors import RunFilesError, WriteError

# Of the files together, written to CONFIG. Version 1 had other fields and no number.
FORMAT_VERSION = 2
_VERSION = "format_version"


@dataclasses.dataclass(frozen=True)
class File(os.PathLike):
    """A file of a workdir.

    Attributes:
      name: its name, or a pattern of names.
      is_result: it is removed where a run is replaced.
      is_shown: the report is made of it.
      max_bytes: a larger one is not read: it may be crafted to fill memory.
    """

    name: str
    is_result: bool = False
    is_shown: bool = False
    max_bytes: int = 0

    def __fspath__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


CONFIG = File("config.json", is_shown=True, max_bytes=2**20)
METRICS = File("metrics.jsonl", is_shown=True, max_bytes=2**26)
DATA = File("data.json", is_result=True, is_shown=True, max_bytes=2**25)
RESULT = File("result.json", is_result=True, is_shown=True, max_bytes=2**23)
DATASET = File("dataset.csv", is_result=True, is_shown=True, max_bytes=2**28)
DATASET_PARQUET = File("dataset.parquet", is_result=True)
HYPERPARAMS = File("hyperparams.npz", is_result=True)
PROBABILITIES = File("probabilities.npy", is_result=True)
EMBEDDINGS = File("embeddings.npy", is_result=True)
REPORT_DATA = File("report.npz", is_result=True, is_shown=True, max_bytes=2**26)
REPORT = File("report.html", is_result=True)
EVENTS = File("events.out.tfevents.*", is_result=True)
CHECKPOINTS = File("checkpoints")  # a folder
LOCK = File(".lock")
REVIEW = File("review.csv")  # of a user's decisions, which no run replaces
# Of several runs, beside their workdirs.
COMPARISON = File("comparison.html")
FEATURES = File("encoder_features")  # a folder

ALL = tuple(value for value in [*globals().values()] if isinstance(value, File))


def write(path: pathlib.Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file by `save(file)`; until that is on the disk, `path` is as it was.

    Raises:
      WriteError: the disk is full, or the folder cannot be written.
    """
    try:
        regular.write(path, save)
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text as `write` does."""
    write(path, lambda file: file.write(text.encode()))


def append_text(path: pathlib.Path, text: str) -> None:
    """Adds a text to a file that `write` has written; all of it or nothing.

    Raises:
      WriteError: as `write`; also where the file is no longer there.
    """
    try:
        regular.append(path, text.encode())
    except OSError as error:
        raise write_error(path, error) from error


def write_error(what: Any, error: OSError) -> WriteError:
    """Returns the error of a file that cannot be written."""
    return WriteError(
        f"cannot write {what}: {error.strerror or error}; what was saved before is "
        "intact",
        "fix the cause and repeat <again>",
    )


def to_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Returns JSON in which NaN, for an unknown number, is null."""

    def without_nan(value: Any) -> Any:
        if isinstance(value, list):
            return [without_nan(each) for each in value]
        if isinstance(value, dict):
            return {name: without_nan(each) for name, each in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    known = {name: without_nan(value) for name, value in values.items()}
    return json.dumps(known, indent=indent, allow_nan=False)


def read_json(workdir: pathlib.Path, file: File) -> dict[str, Any]:
    """Returns the object in a file, null as NaN.

    Raises:
      RunFilesError: the file is absent or damaged.
    """
    path = workdir / file
    try:
        return json_text.parse(regular.read(path, file.max_bytes))
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error


def read_error(path: pathlib.Path, error: Exception) -> RunFilesError:
    """Returns the error of a file that cannot be read."""
    known = error.strerror if isinstance(error, OSError) else None
    reason = " ".join((known or str(error)).split())
    return RunFilesError(
        f"cannot read {path}: {reason}",
        "restore it from a copy, or repeat the run in another workdir",
    )


class StoredConfig(NamedTuple):
    """The configuration of a run, read back."""

    fields: dict[str, Any]  # sections are dicts; names as they are now
    version: int  # of the format it was written in


def write_config(workdir: pathlib.Path, fields: Mapping[str, Any]) -> None:
    """Writes the configuration of a run, and the version of the format.

    Raises:
      WriteError: it cannot be written.
    """
    values = {_VERSION: FORMAT_VERSION, **fields}
    write_text(workdir / CONFIG, to_json(values, indent=2) + "\n")


def read_config(workdir: pathlib.Path) -> StoredConfig:
    """Returns the configuration of a run, of this version of the format or an older.

    Raises:
      RunFilesError: the file is absent or damaged, or of a newer version.
    """
    path = workdir / CONFIG
    fields = read_json(workdir, CONFIG)
    version = fields.pop(_VERSION, 1)
    _check_version(version, path)
    try:
        if version == 1:
            _update_version_1(fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise read_error(path, ValueError(f"it lacks {error}")) from error
    return StoredConfig(fields, version)


def refuse_newer(workdir: pathlib.Path) -> None:
    """Raises RunFilesError where a workdir is of a newer version of the format."""
    path = workdir / CONFIG
    version = 1
    with contextlib.suppress(RunFilesError):  # Damage is not a newer version.
        version = read_json(workdir, CONFIG).get(_VERSION, 1)
    _check_version(version, path)


def _check_version(version: Any, path: pathlib.Path) -> None:
    if type(version) is not int or not 0 < version <= FORMAT_VERSION:
        raise RunFilesError(
            f"{path} is of version {json_text.shown(version)} of the format, this "
            f"version of autodo_jax reads up to {FORMAT_VERSION}",
            "update autodo_jax",
        )


def _update_version_1(fields: dict[str, Any]) -> None:
    """Renames fields that had another name, and drops those that became constants."""
    augment, task, hyper = (
        fields.get(name, {}) for name in ("augment", "task", "hyper")
    )
    counts = {
        "randaugment": augment.pop("rand_num_ops", None),
        "randaugment_color": augment.pop("color_num_ops", None),
        "uniform_augment": augment.pop("uniform_num_ops", None),
    }
    if any(counts.values()):
        augment["num_ops"] = counts.get(augment["policy"], 0)
    fields.get("data", {}).setdefault("train_on", "train")
    for section, name in (
        (augment, "temperature"),
        (task, "warmup_epochs"),
        (hyper, "warmup_epochs"),
        (hyper, "decay"),
        (hyper, "eps"),
    ):
        section.pop(name, None)
