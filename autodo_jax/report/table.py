"""Mean and standard deviation over seeds of the results in workdirs."""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from autodo_jax.config import METHODS

# What tells one row of a table from another.
_ROW_FIELDS = (
    "dataset",
    "imbalance_ratio",
    "noise_ratio",
    "epochs",
    "method",
    "frozen",
)
_HEADER = (
    "dataset",
    "IR-NR",
    "method",
    "Lambda",
    "seeds",
    "test error %",
    "rare classes %",
    "noise AUROC",
    "seconds",
)


class Summary(NamedTuple):
    """Mean and sample standard deviation of a figure over seeds."""

    mean: float
    std: float  # NaN for a single seed

    def text(self, digits: int) -> str:
        """`mean +- std`, or the mean alone for a single seed."""
        spread = "" if np.isnan(self.std) else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


def find_results(folders: Iterable[pathlib.Path]) -> list[dict[str, Any]]:
    """Returns every result.json below the folders, those of unfinished runs left out.

    Raises:
      ValueError: a folder that does not exist, or none of them holds a finished run.
    """
    paths: set[pathlib.Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is no folder; pass workdirs or a folder of them"
            )
        paths |= set(folder.rglob("result.json"))
    if not paths:
        raise ValueError("no finished run (result.json) in the folders given")
    return [json.loads(path.read_text()) for path in sorted(paths)]


def summarize(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(np.mean(values)), std)


def rare_class_error(result: dict[str, Any]) -> float:
    """Mean error of the upper half of the classes, those the imbalance makes rare."""
    errors = result["class_error"]
    return float(np.mean(errors[len(errors) // 2 :]))


def rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row of text per (data, distortion, epochs, method, frozen), header first."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(tuple(result[name] for name in _ROW_FIELDS), []).append(
            result
        )
    order = list(METHODS)

    def place(key):
        dataset, imbalance, noise, epochs, method, frozen = key
        return dataset, imbalance, noise, epochs, order.index(method), not frozen

    table: list[tuple[str, ...]] = [_HEADER]
    for key in sorted(groups, key=place):
        dataset, imbalance, noise, _, method, frozen = key
        group = groups[key]
        aurocs = [run["noise_auroc"] for run in group if "noise_auroc" in run]
        learned = any(METHODS[method][1:]) or METHODS[method][0] != "none"
        table.append(
            (
                dataset,
                f"{imbalance:g}-{noise:g}",
                method,
                ("frozen" if frozen else "learned") if learned else "-",
                str(len(group)),
                summarize([run["test_error"] for run in group]).text(1),
                summarize([rare_class_error(run) for run in group]).text(1),
                summarize(aurocs).text(2) if aurocs else "-",
                summarize([run["seconds"] for run in group]).text(0),
            )
        )
    return table


def to_text(table: Sequence[tuple[str, ...]]) -> str:
    """Columns aligned by spaces."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def to_markdown(table: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    header, *body = ("| " + " | ".join(row) + " |" for row in table)
    return "\n".join([header, "|" + "---|" * len(table[0]), *body])
