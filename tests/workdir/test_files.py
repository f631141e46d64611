"""Files of a workdir are whole, and declared in one place."""

import ast
import errno
import math
import pathlib

import pytest

from autodo_jax.disk import json_text
from autodo_jax.errors import RunFilesError, WriteError
from autodo_jax.workdir import files
from autodo_jax.workdir.dataset_report import load_dataset_report

ROOT = pathlib.Path(__file__).parents[2]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "x"
    files.write_text(path, "old")

    def full(file):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        WriteError, match=r"cannot write .*x: No space left on device; what"
    ):
        files.write(path, full)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    files.write(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"


def test_what_is_not_known_is_null():
    values = {"a": float("nan"), "b": [1.5, float("nan")], "c": "NaN", "d": 3}
    text = files.to_json(values)
    assert text == '{"a": null, "b": [1.5, null], "c": "NaN", "d": 3}'
    read = json_text.parse(text.encode())
    assert math.isnan(read["a"]) and math.isnan(read["b"][1])
    assert (read["b"][0], read["c"], read["d"]) == (1.5, "NaN", 3)


@pytest.mark.parametrize("text", ["", "[1]", "{", "3", '"text"'])
def test_what_is_not_an_object_is_refused_by_name(text, tmp_path):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(RunFilesError, match=r"cannot read .*data\.json: "):
        files.read_json(tmp_path, files.DATA)


@pytest.mark.parametrize("version", [3, 17, '"2"', "2.5"])
def test_readers_say_that_a_workdir_is_of_a_newer_version(version, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"format_version": {version}}}')
    for read in (files.read_config, load_dataset_report):
        with pytest.raises(RunFilesError, match=r"config\.json is of version .* reads"):
            read(tmp_path)


def strings(path):
    """Yields the strings of a program but for its docstrings."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docs:
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def test_no_other_program_has_the_name_of_a_file():
    names = [file.name.removesuffix(".*") for file in files.ALL]
    assert len(set(names)) == len(names) >= 12
    for top in ("autodo_jax", "launch", "configs", "benchmarks", "examples"):
        for path in (ROOT / top).rglob("*.py"):
            if path != ROOT / "autodo_jax/workdir/files.py":
                for line, text in strings(path):
                    found = [
                        name
                        for name in names
                        # A folder, and a suffix of other files too.
                        if name in text and name not in ("checkpoints", ".lock")
                    ]
                    is_path = text.strip("/") in ("checkpoints", ".lock")
                    assert not found and not is_path, f"{path}:{line}: {text}"
