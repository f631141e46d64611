"""A read-only view of a run by its workdir, whether finished or under way."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import ml_collections

from autodo_jax import config as config_lib
from autodo_jax.disk import json_text, regular
from autodo_jax.errors import RunFilesError
from autodo_jax.workdir import files, schema
from autodo_jax.workdir.dataset_report import DatasetReport, load_dataset_report
from autodo_jax.workdir.report_data import ReportData, load_report_data

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run by its workdir.

    Its methods read further files; they raise RunFilesError where one cannot be read.
    """

    path: pathlib.Path
    config: Mapping[str, Any]  # its fields by their full names, as `hyper.frozen`
    result: Mapping[str, Any] | None  # of a finished run

    @property
    def learns(self) -> bool:
        """True where the outer loop learns Lambda, from `hyper.start_epoch` on."""
        method = config_lib.Method(
            *(self.config[name] for name in config_lib.METHOD_FIELDS)
        )
        return config_lib.has_hyperparams(method) and not self.config["hyper.frozen"]

    def records(self) -> list[dict[str, Any]]:
        """Returns the metrics of each epoch.

        The last line of a run that is under way, or was killed, may not be whole.
        """
        path = self.path / files.METRICS
        try:
            content = regular.read(path, files.METRICS.max_bytes)
            lines = content.splitlines(keepends=True)
            if self.result is None and lines and not lines[-1].endswith(b"\n"):
                lines.pop()
            return [schema.record(line, i) for i, line in enumerate(lines, 1)]
        except (OSError, ValueError) as error:
            raise files.read_error(path, error) from error

    def data(self) -> dict[str, Any] | None:
        """Returns what was known of the data before training; None without a file.

        The lists `rows` of pairs (subject, text), `warnings`, `certain_errors`, and
        `conflicts` of (id, label, other id, other label).
        """
        if not _is_there(self.path / files.DATA):
            return None
        found = {"conflicts": [], **files.read_json(self.path, files.DATA)}
        return _checked(self.path / files.DATA, found, schema.DATA)

    def dataset(self) -> DatasetReport | None:
        """Returns what was learned of each train point; None without a file."""
        return self._loaded(files.DATASET, load_dataset_report)

    def shown(self) -> ReportData | None:
        """Returns what a finished run left for its report; None without a file."""
        return self._loaded(files.REPORT_DATA, load_report_data)

    def _loaded(self, file: files.File, load: Callable[[pathlib.Path], T]) -> T | None:
        return load(self.path) if _is_there(self.path / file) else None

    def control(self) -> "Run | None":
        """Returns the finished run beside this one that differs in `frozen` only."""
        wanted = _compared(self.config)
        wanted["hyper.frozen"] = not wanted.get("hyper.frozen", False)
        others = (run for run in self._siblings() if _compared(run.config) == wanted)
        return next(others, None)

    def rivals(self) -> "dict[str, Run]":
        """Returns the finished runs of the rivals beside this one, by their method.

        They see the clean validation set too, and differ by what a method sets.
        """
        wanted = _without_method(self.config)
        return {
            run.config["method"]: run
            for run in self._siblings()
            if run.config.get("method") in config_lib.RIVALS
            and run.config["method"] != self.config.get("method")
            and _without_method(run.config) == wanted
        }

    def _siblings(self) -> "Iterator[Run]":
        for path in sorted(self.path.resolve().parent.glob(f"*/{files.RESULT}")):
            # A damaged neighbour is not this run's fault.
            with contextlib.suppress(RunFilesError):
                yield read(path.parent)

    def has_report(self) -> bool:
        """True where the report was written after all that it is made of."""
        report = self.path / files.REPORT
        if not report.exists():
            return False
        used = [self.path / file for file in files.ALL if file.is_shown]
        control = self.control()
        others = [*self.rivals().values(), *([control] if control else [])]
        used += [other.path / files.RESULT for other in others]
        written = report.stat().st_mtime
        return all(file.stat().st_mtime <= written for file in used if file.exists())


def find(folders: Iterable[pathlib.Path]) -> list[Run]:
    """Returns the runs below the folders, finished or with an epoch done.

    Raises:
      RunFilesError: a folder that does not exist, no run in any of them, or a file that
        cannot be read.
    """
    paths: set[pathlib.Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise RunFilesError(
                f"{folder} is not a folder", "pass workdirs or a folder of them"
            )
        paths |= {path.parent for path in folder.rglob(files.RESULT.name)}
        paths |= {
            path.parent
            for path in folder.rglob(files.METRICS.name)
            if path.stat().st_size and path.with_name(files.CONFIG.name).exists()
        }
    if not paths:
        raise RunFilesError("the folders hold no run with an epoch done")
    return [read(path) for path in sorted(paths)]


def read(workdir: pathlib.Path) -> Run:
    """Returns the run of a workdir.

    Raises:
      RunFilesError: a file that is absent or cannot be read.
    """
    path, result = workdir / files.RESULT, None
    if _is_there(path):
        result = files.read_json(workdir, files.RESULT)
        errors = result.get("class_error")
        if isinstance(errors, list):  # As an older version wrote it, without names.
            result["class_error"] = {str(i): value for i, value in enumerate(errors)}
        _checked(path, result, schema.RESULT, schema.MORE_OF_RESULT)
    config = config_lib.flatten(files.read_config(workdir).fields)
    _checked(workdir / files.CONFIG, config, {}, schema.of_config())
    return Run(path=workdir, config=config, result=result)


def _is_there(path: pathlib.Path) -> bool:
    """True for links to nothing, too, which are refused when they are read."""
    return os.path.lexists(path)


def _checked(
    path: pathlib.Path,
    found: dict[str, Any],
    needed: Mapping[str, json_text.Kind],
    optional: Mapping[str, json_text.Kind] | None = None,
) -> dict[str, Any]:
    try:
        json_text.check(found, needed, optional)
    except ValueError as error:
        raise files.read_error(path, error) from error
    return found


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the validated configuration of a run.

    Raises:
      RunFilesError: its file is absent or damaged, or of another version.
    """
    fields = files.read_config(workdir).fields
    flat = config_lib.flatten(fields)
    _checked(workdir / files.CONFIG, flat, {}, schema.of_config())
    config = config_lib.default_config().lock()  # against unknown fields
    try:
        config.update(fields)
        config_lib.validate(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise files.read_error(workdir / files.CONFIG, error) from error
    return config.unlock()


def _without_method(config: Mapping[str, Any]) -> dict[str, Any]:
    set_by_method = {
        *config_lib.METHOD_FIELDS,
        *config_lib.CHOSEN_BY_METHOD,
        "method",
    }
    return {
        name: value
        for name, value in _compared(config).items()
        if name not in set_by_method | {"hyper.frozen"}
    }


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    may_differ = config_lib.MAY_CHANGE - {"epochs"}
    return {name: value for name, value in config.items() if name not in may_differ}
