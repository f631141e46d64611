"""Bytes of each file that is read, changed at random: it is read, or refused in a line.

`FUZZ_SECONDS=3600 python -m pytest -m slow tests/bad_input/test_fuzz.py` runs longer.
"""

import io
import os
import pathlib
import resource
import tarfile
import time
import zipfile
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from autodo_jax.data.images import decode, opened
from autodo_jax.data.sources import embeddings, labels
from autodo_jax.errors import AutodoError, for_command_line
from tests.bad_input import test_hostile as hostile
from tests.report import made_up

whole = hostile.whole

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
MEGABYTES = 500
TOKENS = (
    *(b"[" * 5000, b'{"a":' * 2000, b"9" * 400, b"-", b"1e999", b"NaN", b"null", b'"'),
    *(b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x1b[2J", b"\n", b",", b"=1+1"),
    *(b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"IHDR", b"\xff\xd8\xff"),
)
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1),  # where, as a share of the file
        st.sampled_from(["put", "insert", "cut", "double", "end"]),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(TOKENS)),
    ),
    min_size=1,
    max_size=4,
)


def changed(content, changes):
    for share, kind, new in changes:
        at = int(share * len(content))
        before, after = content[:at], content[at:]
        content = {
            "put": before + new + after[len(new) :],
            "insert": before + new + after,
            "cut": before + after[len(new) * 10 :],
            "double": before + before[-len(new) * 10 :] + after,
            "end": before,
        }[kind]
    return content


def images():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "ICO", "TGA"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        yield f"image.{kind}", file.getvalue()


def archives():
    (_, png), *_ = images()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train/a/1.png", "train/b/\xe9.png", "metadata.csv"):
            archive.writestr(name, png)
    yield "images.zip", file.getvalue()
    kind: Any
    for kind in ("w:", "w:gz", "w:xz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=kind) as archive:
            for name in ("train/a/1.png", "train/b/2.png"):
                info = tarfile.TarInfo(name)
                info.size = len(png)
                archive.addfile(info, io.BytesIO(png))
        yield f"images.tar.{kind[2:]}", file.getvalue()


def tables():
    yield "review.csv", b"id,given_label,decision,new_label\na,b,relabel,c\nd,b,keep,\n"
    file = io.BytesIO()
    np.savez(file, train_features=np.ones((6, 2)), train_labels=np.arange(6) % 2)
    yield "features.npz", file.getvalue()


OTHERS = dict([*images(), *archives(), *tables()])
NAMES = (*hostile.FILES, *OTHERS)


def read(path):
    if path.name in hostile.FILES:
        hostile.read_all(path.parent)
    elif path.name.startswith("image."):
        decode.Decoder(channels=3)(("x", path.read_bytes()))
        decode.Decoder(channels=1, size=(4, 4))(("x", path.read_bytes()))
    elif path.name.startswith("images."):
        with opened.opened(path) as files:
            decoder = decode.Decoder(channels=3)
            contents = files.pick(files.entries)
            for _ in decode.attempts(contents, decoder, decoder):
                pass
    elif path.name == "review.csv":
        labels.read_corrections(str(path))
    else:
        config = made_up.configuration()
        config.data.data_dir = str(path)
        embeddings.load(config.data, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it then reads.
def test_files_with_changed_bytes(name, whole, tmp_path):
    if name in hostile.FILES:
        for other in whole.iterdir():
            (tmp_path / other.name).write_bytes(other.read_bytes())
    else:
        (tmp_path / name).write_bytes(OTHERS[name])
    path: pathlib.Path = tmp_path / name
    content = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def check(changes):
        path.write_bytes(changed(content, changes))
        start = time.process_time()
        try:
            read(path)
        except AutodoError as error:
            line = for_command_line(error)
            assert line.isprintable() and len(line) < 5000
        assert time.process_time() - start < hostile.SECONDS

    end, number = time.monotonic() + SECONDS / len(NAMES), 0
    while time.monotonic() < end or not number:
        settings = hypothesis.settings(
            max_examples=20,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.seed(number)(settings(hypothesis.given(CHANGES)(check)))()
        number += 1
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) / 1024 < MEGABYTES
