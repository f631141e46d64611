"""Images and archives that were made to fill memory, to take for ever, or to lie."""

import bz2
import gzip
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from autodo_jax.data.images import archive_limits, decode, opened, pixels
from autodo_jax.errors import DataError, for_command_line
from tests.data.sources.test_users import chunk

SECONDS = 2.0


def refuse(path, expected):
    """Opens an archive, and reads all of it; it is refused in a line."""
    start = time.process_time()
    with pytest.raises(DataError) as error, opened.opened(path) as files:
        for _, content in files.pick(files.entries):
            if isinstance(content, DataError):
                raise content
    assert time.process_time() - start < SECONDS
    line = for_command_line(error.value)
    assert line.isprintable() and expected in line, line


def zipped(path, *members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def replaced(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


@pytest.mark.parametrize(
    "name",
    [
        *(b"\xff\x1b[2J", b"\xc3\x28\n\n\n", b"\xed\xa0\x80\x1b\r"),
        *(b"\x80/../\x7f", b"\xf8\x88\x80\x80\x80"),
    ],
)
def test_a_name_that_is_not_utf8_is_told_by_its_number(name, tmp_path):
    path = zipped(tmp_path / "x.zip", ("a.png", b"x"), ("\xe9" * 5, b"x"))
    replaced(path, "\xe9".encode() * 5, name.ljust(10, b"z"))
    refuse(path, "x.zip cannot be read: member 2 has a name")


def many_empty(path, num_members, count=None, short=None):
    """A .zip archive of empty members, which says that it has `count`.

    `short` are the counts of the end that older programs read.
    """
    local, directory = io.BytesIO(), io.BytesIO()
    for i in range(num_members):
        name = b"%07d" % i
        directory.write(
            struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 7, *[0] * 5, local.tell()
            )
            + name
        )
        local.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, *[0] * 7, 7, 0) + name)
    start, size = local.tell(), directory.tell()
    count = num_members if count is None else count
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count,
                      size, start)  # fmt: skip
    end += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    counts = short or (0xFFFF, 0xFFFF)
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *counts, size, start, 0)
    path.write_bytes(local.getvalue() + directory.getvalue() + end)


@pytest.mark.parametrize("num_members", [10_000, 70_000, 200_000])
def test_members_without_contents(num_members, tmp_path):
    many_empty(tmp_path / "x.zip", num_members)
    refuse(
        tmp_path / "x.zip", f"{num_members:,} members or more with less than 32 bytes"
    )


@pytest.mark.parametrize(
    "words",
    [
        {"count": 1},
        {"count": 2**40},
        {"count": 1, "short": (1, 1)},
        {"count": 1, "short": struct.unpack("<2H", b"PK\x05\x06")},
    ],
    ids=str,
)
def test_members_are_counted_whatever_the_archive_says(words, tmp_path):
    many_empty(tmp_path / "x.zip", 30_000, **words)
    refuse(tmp_path / "x.zip", " members")


_OPEN = """
import resource, sys, time
from autodo_jax.data.images import opened
from autodo_jax.errors import DataError

def used():
    return resource.getrusage(resource.RUSAGE_SELF)

before = used()
try:
    with opened.opened(__import__("pathlib").Path(sys.argv[1])):
        pass
except DataError as error:
    print(error)
print((used().ru_maxrss - before.ru_maxrss) / 1024, used().ru_utime - before.ru_utime)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [10**6, 1, 0, 10**12])
def test_a_million_members_without_contents(count, tmp_path):
    many_empty(tmp_path / "x.zip", 10**6, count)
    command = [sys.executable, "-c", _OPEN, str(tmp_path / "x.zip")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line, used = output.splitlines()
    assert " members or more with less than 32 bytes" in line or "more than" in line
    megabytes, seconds = map(float, used.split())
    assert megabytes < 20 and seconds < SECONDS


OPENERS: dict = {"": open, "gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}


@pytest.mark.parametrize("mode", OPENERS)
def test_members_without_contents_of_a_tar(mode, tmp_path):
    path = tmp_path / "x.tar"
    header = tarfile.TarInfo("x").tobuf()
    with OPENERS[mode](path, "wb") as file:
        for _ in range(12):
            file.write(header * 1000)
        file.write(bytes(1024))
    refuse(path, "10,000 members or more with less than 32 bytes")


@pytest.mark.parametrize("mode", ["gz", "xz", "bz2"])
def test_a_tar_that_unpacks_to_far_more_than_it_has(mode, tmp_path):
    info = tarfile.TarInfo("x.png")
    info.size = 2**40
    with OPENERS[mode](tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
    refuse(tmp_path / "x.tar", "and unpacks to more than 1,099,511,627,776")


def test_a_member_that_unpacks_to_far_more_than_it_is(tmp_path):
    path = zipped(
        tmp_path / "x.zip",
        ("x.png", bytes(2**26 + 1)),
        compression=zipfile.ZIP_DEFLATED,
    )
    refuse(path, "bytes that unpack to 67,108,865")


def encrypted(path):
    zipped(path, ("x.png", b"x"))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def of_several_parts(path):
    zipped(path, ("x.png", b"x"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x05\x06") + 4] = 2
    path.write_bytes(content)


def unknown_compression(path):
    zipped(path, ("x.png", b"x"))
    content = bytearray(path.read_bytes())
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 77
    path.write_bytes(content)


def directory_elsewhere(path):
    zipped(path, ("x.png", b"x"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x05\x06") + 16] ^= 255
    path.write_bytes(content)


def lies_of_its_size(path):
    zipped(path, ("x.png", b"x"))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (encrypted, "encrypted"),
        (of_several_parts, "is one of the parts"),
        (unknown_compression, "compression"),
        (directory_elsewhere, "x.zip"),
        (lies_of_its_size, "unpack to 4,294,967,294"),
    ],
)
def test_archives_that_cannot_be_read(make, expected, tmp_path):
    make(tmp_path / "x.zip")
    refuse(tmp_path / "x.zip", expected)


def test_an_archive_in_an_archive_is_a_file_that_is_no_image(tmp_path):
    inner = zipped(tmp_path / "inner.zip", ("x.png", b"x")).read_bytes()
    path = zipped(tmp_path / "x.zip", ("train/a/inner.zip", inner))
    with opened.opened(path) as files:
        assert [content for _, content in files.pick(files.entries)] == [inner]


def header_of_png(sides, colour):
    fields = struct.pack(">IIBBBBB", *sides, 8, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(), (8, 8)])
@pytest.mark.parametrize(
    "sides",
    [(1, 2**26), (2**26, 1), (2**16 + 1, 1), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1),
     (2**13 + 1, 2**13), (2**16, 2**16), (0, 5), (5, 0)],
)  # fmt: skip
@pytest.mark.parametrize("colour", [0, 2, 6])
def test_sides_that_fill_memory(sides, size, colour):
    start = time.process_time()
    content = header_of_png(sides, colour)
    with pytest.raises(DataError, match=r"the image x cannot be read: "):
        decode.Decoder(channels=3, size=size)(("x", content))
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16", "1", "P"])
@pytest.mark.parametrize("size", [(), (5, 7)])
def test_large_images_are_converted_in_strips_to_the_same_pixels(
    mode, size, monkeypatch
):
    rng = np.random.default_rng(0)
    shape = {"RGB": (23, 17, 3), "RGBA": (23, 17, 4)}.get(mode, (23, 17))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 2**16, shape, dtype=np.uint16))
    elif mode in ("1", "P"):
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert(
            mode
        )
    else:
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    whole = pixels.to_array(image, channels=3, size=size)
    monkeypatch.setattr(pixels, "LARGE", 1)
    monkeypatch.setattr(pixels, "_STRIP", 40)
    np.testing.assert_array_equal(pixels.to_array(image, channels=3, size=size), whole)


def test_few_contents_are_in_memory_at_once(monkeypatch):
    monkeypatch.setattr(decode, "_CHUNK_BYTES", 1000)
    held = []

    def files():
        for i in range(20):
            held.append(i)
            yield str(i), bytes(400)

    decoder = decode.Decoder(channels=3)
    for number, _ in enumerate(decode.attempts(files(), decoder, decoder)):
        assert len(held) <= 3 * (number // 3 + 1)
    assert len(held) == 20


def test_what_is_large_and_sound_is_read(tmp_path):
    path = zipped(tmp_path / "x.zip", *((f"{i}.png", bytes(99)) for i in range(11_000)))
    archive_limits.check_zip(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("last", b"x", zipfile.ZIP_DEFLATED)
    with opened.opened(path) as files:
        assert len(files.entries) == 11_001
