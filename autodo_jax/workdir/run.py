"""The files of workdirs, of finished runs and of those under way."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from autodo_jax import config as config_lib
from autodo_jax.workdir.dataset_report import DatasetReport, load_dataset_report
from autodo_jax.workdir.report_data import ReportData, load_report_data

T = TypeVar("T")

_FILES = ("config.json", "metrics.jsonl", "result.json", "dataset.csv", "report.npz")

# Fields of result.json that each run has.
_RESULT: dict[str, Any] = {
    "dataset": str,
    "method": str,
    "frozen": bool,
    "class_error": list,
    **dict.fromkeys(("seed", "epochs"), int),
    **dict.fromkeys(
        ("imbalance_ratio", "noise_ratio", "test_error", "seconds"), (int, float)
    ),
}


class RunFilesError(ValueError):
    """Files of a workdir that cannot be used; the message names it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run by its workdir.

    Its methods read further files; they raise RunFilesError where one cannot be read.
    """

    path: pathlib.Path
    config: Mapping[str, Any]  # config.json, its fields by their full names
    result: Mapping[str, Any] | None  # result.json, of a finished run

    @property
    def learns(self) -> bool:
        """True where the outer loop learns Lambda, from `hyper.start_epoch` on."""
        names = (
            "augment.policy",
            "hyper.augment",
            "hyper.weights",
            "hyper.soft_labels",
        )
        method = config_lib.Method(*(self.config[name] for name in names))
        return config_lib.has_hyperparams(method) and not self.config["hyper.frozen"]

    def records(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        try:
            return [_parse(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    def dataset(self) -> DatasetReport | None:
        """Returns what was learned of each train point; None without a file."""
        return self._loaded("dataset.csv", load_dataset_report)

    def shown(self) -> ReportData | None:
        """Returns what a finished run left for its report; None without a file."""
        return self._loaded("report.npz", load_report_data)

    def _loaded(self, name: str, load: Callable[[pathlib.Path], T]) -> T | None:
        if not (self.path / name).exists():
            return None
        try:
            return load(self.path)
        except ValueError as error:
            raise RunFilesError(str(error)) from error

    def control(self) -> "Run | None":
        """Returns the finished run beside this one that differs in `frozen` only."""
        wanted = _compared(self.config)
        wanted["hyper.frozen"] = not wanted.get("hyper.frozen", False)
        for path in sorted(self.path.resolve().parent.glob("*/result.json")):
            try:
                other = read(path.parent)
            except RunFilesError:
                continue  # Whatever is wrong with it is not this run's.
            if _compared(other.config) == wanted:
                return other
        return None

    def has_page(self, name: str) -> bool:
        """True where the page was written after all that it is made of."""
        page = self.path / name
        if not page.exists():
            return False
        used = [self.path / file for file in _FILES]
        control = self.control()
        if control is not None:
            used.append(control.path / "result.json")
        written = page.stat().st_mtime
        return all(file.stat().st_mtime <= written for file in used if file.exists())


def find(folders: Iterable[pathlib.Path]) -> list[Run]:
    """Returns the runs below the folders, finished or with an epoch behind them.

    Raises:
      ValueError: a folder that does not exist, or no run in any of them.
      RunFilesError: a file that cannot be read.
    """
    paths: set[pathlib.Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is no folder; pass workdirs or a folder of them"
            )
        paths |= {path.parent for path in folder.rglob("result.json")}
        paths |= {
            path.parent
            for path in folder.rglob("metrics.jsonl")
            if path.stat().st_size and path.with_name("config.json").exists()
        }
    if not paths:
        raise ValueError("no run with an epoch behind it in the folders given")
    return [read(path) for path in sorted(paths)]


def read(workdir: pathlib.Path) -> Run:
    """Returns the run of a workdir.

    Raises:
      RunFilesError: a file that is absent or cannot be read.
    """
    path = workdir / "result.json"
    result = _read_json(path) if path.exists() else None
    if result is not None:
        wrong = [
            name
            for name, kind in _RESULT.items()
            if not isinstance(result.get(name), kind)
        ]
        if wrong:
            raise _unreadable(path, ValueError(f"it has no {', '.join(sorted(wrong))}"))
    config = config_lib.flatten(_read_json(workdir / "config.json"))
    return Run(path=workdir, config=config, result=result)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return _parse(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _parse(text: str) -> dict[str, Any]:
    """Reads an object; what was not measured, null, is NaN again."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text[:20]!r} is no JSON object")
    return {name: _with_nan(each) for name, each in value.items()}


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(each) for each in value]
    return math.nan if value is None else value


def _unreadable(path: pathlib.Path, error: Exception) -> RunFilesError:
    return RunFilesError(
        f"cannot read {path}: {error}; repeat the run with --overwrite"
    )


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    may_differ = config_lib.MAY_CHANGE - {"config.epochs"}
    return {
        name: value
        for name, value in config.items()
        if f"config.{name}" not in may_differ
    }
