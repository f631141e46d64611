"""Arrays of files that others have made: read as they are, or refused in bounds."""

import io
import pathlib
import resource
import struct
import time
import zipfile

import numpy as np
import pytest

from autodo_jax.disk import arrays, zip_directory
from tests.data.images.test_hostile import many_empty
from tests.disk.test_regular import NOT_FILES

SECONDS, MEGABYTES = 2.0, 500


@pytest.fixture(autouse=True)
def bounded():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) / 1024 < MEGABYTES


def header(descr, shape):
    file = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


SOUND = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype="u1").reshape(3, 4)),
    np.array(["a", "\xe9"]),
    np.float16(3),
    np.zeros((0, 5), ">i4"),
]


@pytest.mark.parametrize("array", SOUND, ids=str)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_they_are(array, save, tmp_path):
    save(tmp_path / "x.npz", a=array, b=np.ones(3))
    np.save(tmp_path / "x.npy", array)
    with open(tmp_path / "x.npz", "rb") as file:
        found = arrays.read_any_npz(file)
    assert [*found] == ["a", "b"]
    for each in (found["a"], arrays.map_npy(tmp_path / "x.npy")):
        assert each.dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(each, array)
    assert isinstance(arrays.map_npy(tmp_path / "x.npy"), np.memmap)


HOSTILE = {
    "a shape of terabytes": header("<i8", (2**40,)) + bytes(80),
    "a shape beyond all": header("<i8", (2**62, 2**62)) + bytes(80),
    "a shape below zero": header("<i8", (-1,)),
    "a byte too few": header("<i8", (3,)) + bytes(23),
    "long texts": header("<U100000000", (40,)),
    "objects": header("|O", (3,)) + b"cos\nsystem\n(S'id'\ntR.",
    "fields": header([("a", "<i4")], (3,)) + bytes(12),
    "no array": b"text",
    "nothing": b"",
    "of another version": b"\x93NUMPY\x09\x00" + bytes(100),
    "a long header": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 10**5,
    "code": b"\x93NUMPY\x01\x00\x40\x00" + b"__import__('os')".ljust(64),
    "deep": b"\x93NUMPY\x01\x00\xff\x20" + b"(" * 0x20FF,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_arrays_that_are_none(kind, tmp_path):
    (tmp_path / "x.npy").write_bytes(HOSTILE[kind])
    with pytest.raises(Exception):  # noqa: B017, callers expect any
        arrays.map_npy(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", HOSTILE[kind])
    with open(tmp_path / "x.npz", "rb") as file, pytest.raises(Exception):  # noqa: B017
        arrays.read_any_npz(file)


@pytest.mark.parametrize("kind", sorted(NOT_FILES))
def test_what_is_no_file_is_no_array(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    NOT_FILES[kind][0](pathlib.Path("x"))
    with pytest.raises(OSError, match=NOT_FILES[kind][1]):
        arrays.map_npy("x")


def of_zeros(path):
    np.savez_compressed(path, a=np.zeros(2**27, "u1"))


def of_many(path):
    many_empty(path, 20_000)


def of_others(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"text")


def twice(path):
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning):
        for _ in range(2):
            archive.writestr("a.npy", header("<i8", (0,)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (of_zeros, r"a has shape \(134217728,\) in .* and 67,108,864 of all arrays"),
        (of_many, "a directory of 1,060,000 bytes"),
        (of_others, r"it holds a\.txt, expected arrays, NAME\.npy"),
        (twice, "two arrays of one name"),
    ],
)
def test_archives_of_something_else(make, expected, tmp_path):
    make(tmp_path / "x.npz")
    with (
        open(tmp_path / "x.npz", "rb") as file,
        pytest.raises(ValueError, match=expected),
    ):
        arrays.read_any_npz(file)


def ending(path, *, before=b"", comment=b"", counts=(1, 1)):
    """A whole archive of one member after `before`, of so many by its own words."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x")
        archive.comment = comment
    content = bytearray(file.getvalue())
    at = len(content) - 22 - len(comment)
    content[at + 8 : at + 12] = struct.pack("<2H", *counts)
    path.write_bytes(before + content)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"before": b"#!/bin/sh\n"},
        {"comment": b"of the archive"},
        {"counts": struct.unpack("<2H", b"PK\x05\x06")},
        {"counts": (0xFFFF, 0xFFFF)},
    ],
    ids=str,
)
def test_the_directory_is_the_one_that_is_read(words, tmp_path):
    ending(tmp_path / "x.zip", **words)
    with open(tmp_path / "x.zip", "rb") as file:
        found = zip_directory.find(file)
    assert found is not None and found.length == 47
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert found.position == archive.start_dir
