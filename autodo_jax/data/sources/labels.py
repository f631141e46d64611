"""Labels that a table gives to images, instead of folders or beside them."""

import pathlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_collections

from autodo_jax.errors import DataError
from autodo_jax.spreadsheet import parse_table, read_table

PARTS = {  # part -> names that it may have
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
METADATA = "metadata.csv"  # is read where it is found
DECISIONS = ("keep", "relabel", "drop")
_LISTED = 5  # names in a message


class Row(NamedTuple):
    """What a table says of an image."""

    label: str  # class name
    part: str | None  # None where the table does not say


def parse(
    content: bytes, source: str, folder: str, data: ml_collections.ConfigDict
) -> dict[str, Row]:
    """Returns path of an image -> its row.

    Args:
      content: of the table.
      source: its name, for messages.
      folder: below which its file names are, with a final slash, or "".
      data: config.data, which names the columns.

    Raises:
      DataError: a table without these columns, an unknown part, an image with two
        labels.
    """
    columns = _columns(content, source, (data.file_column, data.label_column))
    names, labels = columns[data.file_column], columns[data.label_column]
    parts = columns.get(data.split_column, [""] * len(names))
    rows: dict[str, Row] = {}
    for name, label, part in zip(names, labels, parts, strict=True):
        if not name:
            raise DataError(f"{source} has a row without {data.file_column}")
        if part and part.casefold() not in PART_OF:
            raise DataError(
                f"{source} has the {data.split_column} {part!r}, expected one of "
                f"{', '.join(PART_OF)}"
            )
        path = posixpath.normpath(folder + name.replace("\\", "/"))
        row = Row(label.strip(), PART_OF[part.casefold()] if part else None)
        if rows.setdefault(path, row) != row:
            raise DataError(
                f"{source} has two rows for {name}, with different labels or parts",
                "leave one",
            )
    return rows


def read_corrections(path: str) -> dict[str, str | None]:
    """Returns id of a train image -> its label, None where it is to be left out.

    Args:
      path: a table with `id`, `decision` and `new_label`, as the review writes it; or
        that of a run, in which the column `given_label` was edited.

    Raises:
      DataError: a file that cannot be read, or is neither.
    """
    found = read_decisions(path)
    return {
        name: decision.label
        for name, decision in found.items()
        if decision.kind != "keep"
    }


class Decision(NamedTuple):
    """What a review says of a train image."""

    kind: str  # of DECISIONS
    label: str | None  # the new one, to relabel


def read_decisions(path: str) -> dict[str, Decision]:
    """Returns id of a train image -> what was decided; `read_corrections` has the rest.

    An edited table of a run relabels each image to the label it has there.
    """
    file = pathlib.Path(path).expanduser()
    try:
        table = read_table(file, escaped=True).columns
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if "id" in table and "given_label" in table and "decision" not in table:
        edited = zip(table["id"], table["given_label"], strict=True)
        return {name: Decision("relabel", label) for name, label in edited}
    missing = [name for name in ("id", "decision", "new_label") if name not in table]
    if missing:
        raise DataError(
            f"{file} has no column {', '.join(missing)}",
            "pass the table of a review, or that of a run with given_label edited",
        )
    found: dict[str, Decision] = {}
    names = (table[name] for name in ("id", "decision", "new_label"))
    for name, decision, label in zip(*names, strict=True):
        if decision not in DECISIONS or (decision == "relabel" and not label):
            raise DataError(
                f"{file} has the decision {decision!r} ({label!r}) for {name}, "
                f"expected one of {', '.join(DECISIONS)}, and a label to relabel"
            )
        found[name] = Decision(decision, label if decision == "relabel" else None)
    return found


def check_present(
    wanted: Mapping[str, object], known: Sequence[str], source: str
) -> None:
    """Raises DataError where a table names images that are not there."""
    absent = sorted(wanted.keys() - set(known))
    if absent:
        listed = ", ".join(absent[:_LISTED])
        raise DataError(
            f"{source} names {len(wanted)} files, {len(absent)} of which are not "
            f"images of this folder, among them {listed}",
            "name files below the folder of the table",
            "leave the rows out",
        )


def _columns(
    content: bytes, source: str, wanted: tuple[str, str]
) -> dict[str, list[str]]:
    try:
        columns = parse_table(content).columns
    except ValueError as error:
        raise DataError(f"cannot read {source}: {error}") from error
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{source} has no column {', '.join(missing)}, it has {', '.join(columns)}",
            "name them by <config.data.file_column> and <config.data.label_column>",
        )
    return columns
