"""Each file of a workdir, replaced by what it must not be: one line, soon, in memory.

The line names the file, and nothing of it spans lines or reaches a terminal raw.
"""

import io
import json
import os
import resource
import shutil
import time
import zipfile
from typing import Any

import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax.errors import RunFilesError, for_command_line
from autodo_jax.workdir import run as runs
from autodo_jax.workdir import schema
from tests.disk.test_regular import NOT_FILES
from tests.report import made_up

FILES = (
    *("config.json", "metrics.jsonl", "data.json", "result.json"),
    *("dataset.csv", "report.npz"),
)
JSON = FILES[:4]
SECONDS, MEGABYTES = 2.0, 500
ESCAPE = "\x1b[2J\n\u202e"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workdir whose files are all in order, and the bound on memory."""
    workdir = made_up.write_run(tmp_path_factory.mktemp("hostile") / "run")
    config = config_lib.to_json(made_up.configuration())
    (workdir / "config.json").write_text(json.dumps({"format_version": 2, **config}))
    data = {"rows": [["a", "b"]], "warnings": ["c"], "certain_errors": ["d"]}
    (workdir / "data.json").write_text(json.dumps(data))
    read_all(workdir)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield workdir
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) / 1024 < MEGABYTES


@pytest.fixture
def workdir(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The paths of sockets are short.
    return shutil.copytree(whole, tmp_path / "run")


def read_all(workdir):
    run = runs.read(workdir)
    runs.load_config(workdir)
    run.records()
    run.data()
    run.dataset()
    run.shown()


def refuse(workdir, name, *words):
    """Reads a workdir that is refused for one of its files."""
    start = time.process_time()
    with pytest.raises(RunFilesError) as error:
        read_all(workdir)
    assert time.process_time() - start < SECONDS
    line = for_command_line(error.value)
    assert name in line and all(word in line for word in words), line
    assert len(line) < 5000 and line.isprintable() and "Traceback" not in line


@pytest.mark.parametrize("kind", sorted(NOT_FILES.keys() - {"nothing"}))
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file(name, kind, workdir):
    path = workdir / name
    path.unlink()
    os.chdir(workdir)
    NOT_FILES[kind][0](path.relative_to(workdir))
    os.chdir(workdir.parent)
    # Links to nothing are said as the files that they are not.
    refuse(workdir, name)


def truncated(content):
    return content[: len(content) // 2 + 1]


BYTES = {
    "zeros": lambda content: bytes(1000),
    "noise": lambda content: np.random.default_rng(0).bytes(1000),
    "half": truncated,
    "latin": lambda content: b"\xe9" + content,
    "wide": lambda content: content.decode("latin-1").encode("utf-16"),
    "doubled": lambda content: content.rstrip() + content,
    "more after it": lambda content: content.rstrip() + b"}",
    "a list": lambda content: b"[1]",
    "a number": lambda content: b"3",
    "a text": lambda content: ('"' + ESCAPE + '"').encode(),
    "no value": lambda content: b"null",
    "open": lambda content: b"{",
    "deep lists": lambda content: b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "deep objects": lambda content: b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "deep and open": lambda content: b"[" * 10**6,
    "hundred deep": lambda content: b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    "digits": lambda content: b'{"epoch": ' + b"9" * 1000 + b"}",
    "many digits": lambda content: b'{"epoch": -' + b"9" * 10**5 + b"}",
    "infinite": lambda content: b'{"epoch": 1e999}',
    "-Infinity": lambda content: b'{"epoch": -Infinity}',
    "Infinity": lambda content: b'{"epoch": Infinity}',
    "twice": lambda content: b'{"epoch": 1, "epoch": 1}',
    "escaped name": lambda content: b'{"\\u001b[2J\\n": 1, "\\u001b[2J\\n": 2}',
    "surrogate": lambda content: b'{"epoch": "\\ud800"}',
    "values": lambda content: b'{"a": [' + b"0," * 2**21 + b"0]}",
    "objects": lambda content: b"[" + b"{}," * 2**20 + b"{}]",
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("name", JSON)
def test_text_that_is_not_of_the_file(name, kind, workdir):
    path = workdir / name
    path.write_bytes(BYTES[kind](path.read_bytes()))
    refuse(workdir, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [2**29, 2**40])
def test_files_that_are_too_large(name, size, workdir):
    os.truncate(workdir / name, size)  # Nothing of it is on the disk.
    refuse(workdir, name)


def change(path, name, value):
    fields = json.loads(path.read_text())
    fields[name] = value
    path.write_text(json.dumps(fields))


WRONG = ["x" * 70_000, [], {}, [[1]], -7.5e300]


@pytest.mark.parametrize("value", WRONG, ids=["text", "list", "dict", "lists", "huge"])
@pytest.mark.parametrize("name", [*schema.RESULT, *schema.MORE_OF_RESULT])
def test_fields_of_a_result(name, value, workdir):
    change(workdir / "result.json", name, value)
    refuse(workdir, "result.json", name, "expected")


@pytest.mark.parametrize("name", schema.RESULT)
def test_fields_that_a_result_lacks(name, workdir):
    path = workdir / "result.json"
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))
    refuse(workdir, "result.json", f"it has no {name}")


@pytest.mark.parametrize(
    "value",
    [
        *({"a": "x"}, {"a": -1}, {"a": 101}, {"a": True}, {"a": [1]}, {"x" * 2000: 1}),
        *(["x"], [101], [-1], [[1]], "x", 3),
    ],
)
def test_errors_of_the_classes(value, workdir):
    change(workdir / "result.json", "class_error", value)
    refuse(workdir, "result.json", "class_error is", "expected percentages")


METRICS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("train_loss", "val_loss", "learning_rate", "new"),
        ("x", ESCAPE, [], {}, True, 1e300),
    ),
    **dict.fromkeys(("val_error", "test_error"), ("x", [], -1, 101, 1e300, False)),
    "epoch": (0, 3, "2", 2.0, None, [], True, -1),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in METRICS for value in METRICS[name]]
)
def test_metrics(name, value, workdir):
    path = workdir / "metrics.jsonl"
    first, second, *rest = path.read_text().splitlines()
    second = json.dumps(json.loads(second) | {name: value})
    path.write_text("\n".join([first, second, *rest]) + "\n")
    refuse(workdir, "metrics.jsonl", f"line 2: {name} is", "expected")


@pytest.mark.parametrize("name", schema.of_config())
def test_fields_of_a_configuration(name, workdir):
    path = workdir / "config.json"
    fields = section = json.loads(path.read_text())
    *parents, last = name.split(".")
    for parent in parents:
        section = section[parent]
    section[last] = [[1]]
    path.write_text(json.dumps(fields))
    refuse(workdir, "config.json", name, "a list of 1, expected")


@pytest.mark.parametrize("value", ["2", 2.0, 0, -1, 3, 10**18, True, [], ESCAPE])
def test_versions(value, workdir):
    change(workdir / "config.json", "format_version", value)
    refuse(workdir, "config.json", "of the format")


@pytest.mark.parametrize("value", ["x", {}, [3], [["a"]], None, 1, [[3, 4]]])
@pytest.mark.parametrize("name", schema.DATA)
def test_what_was_known_of_the_data(name, value, workdir):
    change(workdir / "data.json", name, value)
    refuse(workdir, "data.json", f"{name} is", "expected a list")


SHARES = ("label_confidence", "noise_score", "gate_rotate")
POSITIVE = ("weight", "magnitude_rotate")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((name, value) for name in SHARES + POSITIVE
          for value in ("nan", "inf", "-1", "1e400", "x", "", ESCAPE, "9" * 5000)),
        *((name, "1.5") for name in SHARES),
        *(("index", value) for value in
          ("-1", "1.5", "x", "", "9" * 20, "9" * 5000, "0", "\u0663")),
        *(("is_suspect", value) for value in ("maybe", "", "2", ESCAPE)),
        *((name, "x" * 5000) for name in ("id", "given_label", "suggested_label")),
    ],
)  # fmt: skip
def test_cells_of_the_report_on_the_points(column, value, workdir):
    path = workdir / "dataset.csv"
    header, first, second, *rest = path.read_text().splitlines()
    cells = second.split(",")
    cells[header.split(",").index(column)] = f'"{value}"'
    path.write_text("\n".join([header, first, ",".join(cells), *rest]))
    refuse(workdir, "dataset.csv", column if column != "index" else "index")


COLUMNS = "index,id,given_label,suggested_label,label_confidence,noise_score,weight"
TABLES = {
    "nothing": b"",
    "empty lines": b"\n\n\n",
    "zeros": bytes(1000),
    "noise": np.random.default_rng(0).bytes(1000),
    "a row alone": b"0,a,b,c,1,0,1\n",
    "columns twice": (COLUMNS + ",weight\n0,a,b,c,1,0,1,1\n").encode(),
    "a cell too many": (COLUMNS + "\n0,a,b,c,1,0,1,1\n").encode(),
    "a cell too few": (COLUMNS + "\n0,a,b,c,1,0\n").encode(),
    "open quotes": (COLUMNS + '\n0,"a,b,c,1,0,1\n').encode(),
    "a long cell": (COLUMNS + "\n0," + "a" * 10**6 + ",b,c,1,0,1\n").encode(),
    "many columns": (",".join(map(str, range(5000))) + "\n").encode(),
    "columns for few": b"," * 10**6 + b"\n" + b"a\n" * 10**5,
    "half a letter": COLUMNS.encode("utf-16")[:-1],
    "latin": (COLUMNS + "\n0,\xe9,b,c,1,0,1\n").encode("latin-1"),
    "long texts": (
        COLUMNS + "\n" + "".join(f"{i},a,b,c,1,0,1\n" for i in range(40_000))
        + "40000," + "a" * 4000 + ",b,c,1,0,1\n"
    ).encode(),
    **{
        f"no {name}": COLUMNS.replace(name, "x").encode() + b"\n0,a,b,c,1,0,1\n"
        for name in COLUMNS.split(",")
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_tables(kind, workdir):
    (workdir / "dataset.csv").write_bytes(TABLES[kind])
    refuse(workdir, "dataset.csv")


ARRAYS = (
    *("class_names", "test_labels", "test_predictions", "feature_index", "features"),
    *("suspect_index", "suspect_images", "augmented_images"),
)


def save_npz(workdir, change):
    path = workdir / "report.npz"
    with np.load(path) as saved:
        arrays = dict(saved)
    change(arrays)
    np.savez_compressed(path, **arrays)


def without(arrays, name):
    del arrays[name]


def put(make):
    def change(arrays, name):
        arrays[name] = make(arrays[name])

    return change


CHANGES = {
    "missing": without,
    "complex": put(lambda x: np.zeros(x.shape, complex)),
    "another axis": put(lambda x: x[None]),
    "a number": put(lambda x: np.int64(3)),
    "fields": put(lambda x: np.zeros(x.shape, [("a", "i4"), ("b", "i4")])),
    "objects": put(lambda x: np.full(x.shape, None, object)),
    "times": put(lambda x: np.zeros(x.shape, "M8[s]")),
    "too many": put(lambda x: np.zeros((2**21, *x.shape[1:])[: x.ndim], "i1")
                    if x.ndim < 3 else np.zeros((4, 1, 3000, 3000, 3)[-x.ndim:], "u1")),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_the_report(name, kind, workdir):
    save_npz(workdir, lambda arrays: CHANGES[kind](arrays, name))
    refuse(workdir, "report.npz", *([name] if kind != "too many" else []))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("class_names", np.array(["x" * 10**5, "b", "c", "d"]), "class_names is <U"),
        ("test_labels", np.full(40, 4), "test_labels has 4, expected 0..3"),
        ("test_labels", np.full(40, -1), "test_labels has -1"),
        ("test_predictions", np.full(40, 2**40), "test_predictions has"),
        ("feature_index", np.full(40, 40), "feature_index has 40"),
        ("suspect_index", np.full(7, -1), "suspect_index has -1"),
        ("suspect_images", np.zeros((7, 97, 9, 1), np.uint8), "suspect_images is"),
        ("suspect_images", np.zeros((7, 9, 9, 4), np.uint8), "suspect_images is"),
        ("more", np.zeros(3), "more.npy"),
        (ESCAPE, np.zeros(3), "expected"),
    ],
)
def test_values_of_the_report(name, value, expected, workdir):
    save_npz(workdir, lambda arrays: arrays.update({name: value}))
    refuse(workdir, "report.npz", expected)


def header(descr, shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


HEADERS = {
    "a shape of terabytes": lambda: header("<i8", (2**40,)),
    "a shape below zero": lambda: header("<i8", (-1,)),
    "long texts": lambda: header("<U100000000", (40,)),
    "a shape of many axes": lambda: header("<i8", (1,) * 40),
    "no array": lambda: b"text",
    "of another version": lambda: b"\x93NUMPY\x09\x00" + bytes(100),
    "a long header": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 10**5,
    "code": lambda: b"\x93NUMPY\x01\x00\x40\x00" + b"__import__('os')".ljust(64),
    "deep": lambda: b"\x93NUMPY\x01\x00\xff\x20" + b"(" * 0x20FF,
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("name", ["test_labels", "class_names"])
def test_headers_of_arrays(name, kind, workdir):
    path = workdir / "report.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"{name}.npy"] = HEADERS[kind]()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    refuse(workdir, "report.npz")


def members_twice(path):
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("features.npy", b"text")


def with_members(path):
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(20_000):
            archive.writestr(str(i), b"")


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 255
    path.write_bytes(content)


ARCHIVES: dict[str, Any] = {
    "half": lambda path: path.write_bytes(truncated(path.read_bytes())),
    "no end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(1000)),
    "an array alone": lambda path: path.write_bytes(header("<i8", (3,))),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04K\x03."),
    "a member twice": members_twice,
    "many members": with_members,
    **{f"flipped {i}": lambda path, i=i: flip(path, i) for i in (0, 300, 5000, -20)},
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_arrays(kind, workdir):
    ARCHIVES[kind](workdir / "report.npz")
    refuse(workdir, "report.npz")
