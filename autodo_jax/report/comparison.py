"""A page that compares runs by a table and by their curves."""

import collections
import pathlib
from collections.abc import Sequence

import numpy as np

from autodo_jax.report import figures, page, table
from autodo_jax.report.section import Section
from autodo_jax.workdir import files
from autodo_jax.workdir.run import Run, RunFilesError


def write_comparison(runs: Sequence[Run], path: pathlib.Path) -> None:
    """Writes a page with mean and spread over seeds, and with mean curves.

    Args:
      runs: finished ones.
      path: of the page.

    Raises:
      RunFilesError: a file of a workdir that cannot be read.
      WriteError: the page cannot be written.
    """
    rows = table.rows(runs)
    cells = [table.to_texts(row) for row in rows]
    sections = [
        Section(
            "table",
            "Results",
            "Mean ± sample standard deviation over seeds, in the last epoch. A frozen "
            "row is the control of the learned one: the same run with Lambda kept at "
            "its start.",
            list(cells[0]),
            [list(cell.values()) for cell in cells],
        )
    ]
    by_data: dict[str, list[table.Row]] = collections.defaultdict(list)
    for row in rows:
        by_data[f"{row.labels['dataset']} {row.labels['IR-NR']}"].append(row)
    sections += [
        _curves(f"curves-{number}", name, those)
        for number, (name, those) in enumerate(by_data.items(), 1)
    ]
    files.write_text(
        path,
        page.render("runs.html", title=f"{len(runs)} runs compared", sections=sections),
    )


def _curves(anchor: str, name: str, rows: Sequence[table.Row]) -> Section:
    kinds = {"val_error": "validation error in %", "test_error": "test error in %"}
    methods = list(dict.fromkeys(row.labels["method"] for row in rows))
    drawn = {
        label: figures.compared_curves(
            [_curve(row, field, methods.index(row.labels["method"])) for row in rows],
            label,
        )
        for field, label in kinds.items()
    }
    return Section(
        anchor,
        f"Curves of {name}",
        "Means over seeds. If there are few rows, their standard deviation is shaded. "
        "Frozen controls are dashed.",
        figures=drawn,
    )


def _curve(row: table.Row, field: str, group: int) -> figures.Compared:
    values = np.array([_values(run, field) for run in row.runs])
    labels = row.labels
    is_control = labels["Lambda"] == "frozen"
    frozen = " (frozen)" * is_control
    return figures.Compared(
        name=f"{labels['method']}{frozen} {labels.get('variant', '')}".rstrip(),
        group=group,
        is_control=is_control,
        mean=values.mean(axis=0),
        spread=values.std(axis=0, ddof=min(1, len(values) - 1)),
    )


def _values(run: Run, field: str) -> list[float]:
    """Returns a metric of all epochs, whose number is the same for runs of a row."""
    values = [record.get(field) for record in run.records()]
    numbers = [value for value in values if isinstance(value, (int, float))]
    if len(values) != run.config.get("epochs") or len(numbers) < len(values):
        raise RunFilesError(
            f"{run.path / files.METRICS} lacks {field} for some of the epochs",
            "restore it from a copy",
            "repeat the run in another workdir",
        )
    return numbers
