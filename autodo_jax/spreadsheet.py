"""Reads tables of text, as this package or a spreadsheet has saved them."""

import codecs
import csv
import io
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from autodo_jax.disk import regular

MAX_BYTES = 2**28  # larger ones may be crafted to fill memory
_MAX_COLUMNS, _MAX_CELLS = 4096, 2**25
_DELIMITERS = ",;\t"
# Apostrophes before it are texts of a user's, or were written by `cell`.
_FORMULA = re.compile("'*[-=+@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)


class Table(NamedTuple):
    """The columns of a table, by the names in its first line."""

    columns: dict[str, list[str]]
    has_decimal_commas: bool  # since a comma does not separate its cells

    def numbers(self, name: str) -> list[float]:
        """Returns a column as numbers.

        Raises:
          KeyError: there is no such column.
          ValueError: a cell is not a number.
        """
        cells = self.columns[name]
        if self.has_decimal_commas:
            cells = [cell.replace(",", ".") for cell in cells]
        return [_number(name, row, cell) for row, cell in enumerate(cells, 1)]


def _number(name: str, row: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise ValueError(
            f"row {row}: {name} is {cell[:60]!r}, expected a number"
        ) from error


def read_table(path: pathlib.Path, *, escaped: bool = False) -> Table:
    """Returns a table: UTF-8 or UTF-16, its cells apart by comma, semicolon or tab.

    Args:
      path: of the table.
      escaped: its cells are as `cell` returns them.

    Raises:
      OSError: the file cannot be read, or is none.
      ValueError: it is too large, is not text, has no header, names a column twice, or
        has a line with more cells than the header.
    """
    table = parse_table(regular.read(path, MAX_BYTES))
    if not escaped:
        return table
    columns = {
        name: [_unescaped(each) for each in cells]
        for name, cells in table.columns.items()
    }
    return table._replace(columns=columns)


def cell(text: str) -> str:
    """Returns a text for a cell, which no spreadsheet takes for a formula.

    Where it begins like one, an apostrophe comes first. Numbers stay as they are.
    """
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def _unescaped(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def parse_table(content: bytes) -> Table:
    """Returns the table in the contents of a file, as `read_table` does."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    text = _decoded(content)
    first, _, rest = text.partition("\n")
    delimiter = max(_DELIMITERS, key=first.count)
    if first.lower().startswith("sep="):  # Excel says so.
        delimiter, text = first[4:5], rest
    try:
        rows = _bounded(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not rows:
        raise ValueError("it is empty")
    header, *rows = rows
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    if len(set(names)) < len(names):
        raise ValueError(f"it names a column twice: {', '.join(names)}")
    for number, row in enumerate(rows, 1):
        if any(row[len(names) :]):
            raise ValueError(
                f"row {number} has {len(row)} cells, the header has {len(names)}"
            )
        row += [""] * (len(names) - len(row))
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return Table(columns, delimiter != ",")


def _bounded(lines: Iterable[list[str]]) -> list[list[str]]:
    """Returns the rows that are not empty, if they do not take too much memory."""
    rows: list[list[str]] = []
    num_cells = 0
    for row in lines:
        if any(row):
            rows.append(row)
            # Short rows are filled up to the length of the header.
            num_cells += max(len(row), len(rows[0]))
        if len(row) > _MAX_COLUMNS or num_cells > _MAX_CELLS:
            raise ValueError(
                f"it has more than {_MAX_COLUMNS:,} columns, or {_MAX_CELLS:,} cells"
            )
    return rows


def _decoded(content: bytes) -> str:
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not UTF-8 ({error.reason} at byte {error.start}); save it as CSV "
            "in UTF-8"
        ) from error
