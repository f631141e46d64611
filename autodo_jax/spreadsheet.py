"""Reads tables of text, as this package or a spreadsheet has saved them."""

import codecs
import csv
import io
import pathlib
from typing import NamedTuple

from autodo_jax.disk import regular

MAX_BYTES = 2**28  # larger ones may be crafted to fill memory
_DELIMITERS = ",;\t"


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
        return [float(cell) for cell in cells]


def read_table(path: pathlib.Path) -> Table:
    """Returns a table: UTF-8 or UTF-16, its cells apart by comma, semicolon or tab.

    Raises:
      OSError: the file cannot be read, or is none.
      ValueError: it is too large, is not text, has no header, names a column twice, or
        has a line with more cells than the header.
    """
    return parse_table(regular.read(path, MAX_BYTES))


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
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in lines if any(row)]
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


def _decoded(content: bytes) -> str:
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not UTF-8 ({error.reason} at byte {error.start}); save it as CSV "
            "in UTF-8"
        ) from error
