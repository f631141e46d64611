"""Tables as programs save them, against what the csv module and Excel write."""

import csv
import io
import os

import pytest

from autodo_jax.spreadsheet import cell, parse_table, read_table

ROWS = [["id", "label", "score"], ["a,b.png", "cat; small", "0.5"], ['"q"', "ü", "-1"]]


def saved(delimiter, encoding, decimal=".", head=""):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    for row in ROWS:
        writer.writerow([*row[:-1], row[-1].replace(".", decimal)])
    return (head + text.getvalue()).encode(encoding)


@pytest.mark.parametrize(
    "content",
    [
        saved(",", "utf-8"),
        saved(",", "utf-8-sig"),
        saved(";", "utf-8-sig", ","),
        saved("\t", "utf-16", ","),
        saved("\t", "utf-8"),
        saved(";", "utf-8", ",", head="sep=;\r\n"),
        saved(",", "utf-8").replace(b"\r\n", b"\n"),
        saved(",", "utf-8") + b",,\r\n\r\n",
        saved(",", "utf-8").replace(b"\r\n", b",,\r\n"),
    ],
)
def test_all_of_them_are_the_same_table(content):
    table = parse_table(content)
    header, *rows = ROWS
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    score = columns.pop("score")
    found = dict(table.columns)
    assert [cell.replace(",", ".") for cell in found.pop("score")] == score
    assert found == columns
    assert table.numbers("score") == [0.5, -1.0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"a,a\n1,2", "names a column twice: a, a"),
        (b"a,b\n1,2,3", "row 1 has 3 cells, the header has 2"),
        ("näme\n1".encode("latin1"), "is not UTF-8 .*; save it as CSV in UTF-8"),
        (b"a\n" + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_what_is_no_table_is_refused(content, expected):
    with pytest.raises(ValueError, match=expected):
        parse_table(content)


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match=r"it is a .*, not a file"):
            read_table(path)


CELLS = {
    **{text: f"'{text}" for text in
       ("=1+1", "+cmd", "-x", "@sum", "\tx", "\rx", "\n=x", "=", "-", "\uff1d1+1",
        "'=1", "''-x", "-1.5.png", "+1e5x", "--1")},
    **{text: text for text in
       ("", "a", "a=b", "1", "-0.5", "+3", "-1e-05", "'", "'a", " =1", "\uff11")},
}  # fmt: skip


@pytest.mark.parametrize("text", CELLS)
def test_no_text_becomes_a_formula_and_it_is_read_as_it_was(text, tmp_path):
    assert cell(text) == CELLS[text]
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["a", "b"], [cell(text), "x"]])
    path = tmp_path / "x.csv"
    path.write_bytes(written.getvalue().encode())
    assert read_table(path, escaped=True).columns["a"] == [text]
