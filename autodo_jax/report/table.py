"""Mean and standard deviation over seeds of the results in workdirs."""

import collections
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tabulate

from autodo_jax import config as config_lib
from autodo_jax.errors import printable
from autodo_jax.spreadsheet import cell
from autodo_jax.workdir.run import Run, RunFilesError

# Fields of a configuration that have a column or never distinguish rows.
_COLUMNS = {
    "name",
    "method",
    "seed",
    "data.source",
    "data.imbalance_ratio",
    "data.noise_ratio",
    "hyper.frozen",
}
_NO_VARIANT = _COLUMNS | (config_lib.MAY_CHANGE - {"epochs"})
# Header of each figure -> digits shown after the point.
_FIGURES = {
    "test error %": 1,
    "rare classes %": 1,
    "noise AUROC": 3,
    "seconds": 0,
}


class Summary(NamedTuple):
    """Mean and sample standard deviation of a figure over seeds; NaN if unknown."""

    mean: float
    std: float  # NaN for a single seed

    def text(self, digits: int) -> str:
        """Returns `mean ± std`, `mean` for a single seed, or `-` if it is unknown."""
        if np.isnan(self.mean):
            return "-"
        spread = "" if np.isnan(self.std) else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


class Row(NamedTuple):
    """A row of a table: labels and runs, and their figures over seeds."""

    labels: dict[str, str]  # by header
    figures: dict[str, Summary]  # by header
    runs: Sequence[Run]


def summarize(values: Sequence[float]) -> Summary:
    """Returns mean and sample standard deviation of the values that are not NaN."""
    known = [value for value in values if not np.isnan(value)]
    mean = float(np.mean(known)) if known else float("nan")
    std = float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
    return Summary(mean, std)


def rare_class_error(result: Mapping[str, Any]) -> float:
    """Returns the mean error of the upper half of the classes, the rare ones."""
    errors = [*result["class_error"].values()]
    return float(np.mean(errors[len(errors) // 2 :]))


def rows(runs: Sequence[Run]) -> list[Row]:
    """Returns a row for each group of finished runs that differ only in the seed.

    A further column names the fields of the configuration in which a row differs from
    most runs on its data set.

    Raises:
      RunFilesError: an unknown method.
    """
    usual = _usual_values(runs)
    groups: dict[tuple, list[Run]] = collections.defaultdict(list)
    for run in runs:
        result = _result(run)
        if result["method"] not in config_lib.METHODS:
            raise RunFilesError(f"{run.path}: unknown method {result['method']!r}")
        key = (
            result["dataset"],
            result["imbalance_ratio"],
            result["noise_ratio"],
            _variant(run, usual),
            list(config_lib.METHODS).index(result["method"]),
            not result["frozen"],
        )
        groups[key].append(run)
    table = [_row(groups[key], variant=key[3]) for key in sorted(groups)]
    if not any(row.labels["variant"] for row in table):
        for row in table:
            del row.labels["variant"]
    return table


def to_text(table: Sequence[Row]) -> str:
    """Returns columns aligned by spaces."""
    return _tabulate(table, "plain")


def to_markdown(table: Sequence[Row]) -> str:
    """Returns a Markdown table."""
    return _tabulate(table, "github")


def to_latex(table: Sequence[Row]) -> str:
    """Returns a LaTeX tabular, which needs the package booktabs."""
    return _tabulate(table, "latex_booktabs").replace("±", r"$\pm$")


def to_csv(table: Sequence[Row]) -> str:
    """Returns CSV with full precision; mean and std have columns of their own."""
    lines = [
        {name: cell(text) for name, text in row.labels.items()}
        | {
            f"{name} {part}": value
            for name, figure in row.figures.items()
            for part, value in figure._asdict().items()
        }
        for row in table
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def _usual_values(runs: Sequence[Run]) -> dict[tuple, Any]:
    """Returns the most common value of each field, by group of runs and field."""
    counts: dict[tuple, collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    for run in runs:
        for name, value in run.config.items():
            counts[_group(run, name), name][json.dumps(value)] += 1
    return {
        key: json.loads(counter.most_common(1)[0][0]) for key, counter in counts.items()
    }


def _group(run: Run, name: str) -> tuple[str, ...]:
    """Returns the data set and, for a field that the method sets, the method."""
    result = _result(run)
    is_methods = name in config_lib.CHOSEN_BY_METHOD
    return (result["dataset"], *([result["method"]] if is_methods else []))


def _variant(run: Run, usual: Mapping[tuple, Any]) -> str:
    method = config_lib.METHODS[_result(run)["method"]]
    expected = dict(zip(config_lib.METHOD_FIELDS, method, strict=True))
    for name in run.config.keys() - expected.keys():
        expected[name] = usual[_group(run, name), name]
    return ", ".join(
        f"{name}={value}"
        for name, value in sorted(run.config.items())
        if name not in _NO_VARIANT and value != expected[name]
    )


def _row(runs: Sequence[Run], variant: str) -> Row:
    first = _result(runs[0])
    learns = config_lib.has_hyperparams(config_lib.METHODS[first["method"]])
    labels = {
        "dataset": printable(first["dataset"]),
        "IR-NR": f"{first['imbalance_ratio']:g}-{first['noise_ratio']:g}",
        "variant": printable(variant),
        "method": first["method"],
        "Lambda": ("frozen" if first["frozen"] else "learned") if learns else "-",
        "seeds": str(len(runs)),
    }
    values = zip(*(_figures(_result(run)) for run in runs), strict=True)
    figures = dict(zip(_FIGURES, map(summarize, values), strict=True))
    return Row(labels, figures, runs)


def _result(run: Run) -> Mapping[str, Any]:
    assert run.result is not None, f"{run.path} is not finished"
    return run.result


def _figures(result: Mapping[str, Any]) -> tuple[float, ...]:
    return (
        result["test_error"],
        rare_class_error(result),
        result.get("noise_auroc", float("nan")),
        result["seconds"],
    )


def to_texts(row: Row) -> dict[str, str]:
    """Returns header -> text of each cell of a row."""
    shown = {name: row.figures[name].text(digits) for name, digits in _FIGURES.items()}
    return row.labels | shown


def _tabulate(table: Sequence[Row], style: str) -> str:
    return tabulate.tabulate(
        map(to_texts, table), headers="keys", tablefmt=style, disable_numparse=True
    )
