"""Bytes of each file that is read, changed at random: it is read, or refused in a line.

`FUZZ_SECONDS=3600 python -m pytest -m slow tests/bad_input/test_fuzz.py` runs longer.
"""

import hashlib
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
import safetensors.numpy
from hypothesis import strategies as st
from PIL import Image

from autodo_jax.data.images import decode, opened
from autodo_jax.data.sources import embeddings, labels
from autodo_jax.errors import AutodoError, for_command_line
from autodo_jax.models import torch_weights
from autodo_jax.workdir import feature_store
from tests.bad_input import test_hostile as hostile
from tests.report import made_up

whole = hostile.whole

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
MEGABYTES = 500
TOKENS = (
    *(b"[" * 5000, b'{"a":' * 2000, b"9" * 400, b"-", b"1e999", b"NaN", b"null", b'"'),
    *(b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x1b[2J", b"\n", b",", b"=1+1"),
    *(b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"IHDR", b"\xff\xd8\xff"),
    *(b"r\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x86R", b"b", b"<U99999999"),
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
        sizes = {"sizes": [(7, 9)]} if kind == "ICO" else {}  # Older ones save none.
        Image.fromarray(pixels).save(file, kind, **sizes)
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


def arrays():
    file = io.BytesIO()
    np.save(file, np.ones((6, 2), np.float32))
    yield "train_features.npy", file.getvalue()  # of a folder of arrays
    content = safetensors.numpy.save({"a.weight": np.ones((3, 2), np.float32)})
    yield "weights.safetensors", content
    file = io.BytesIO()
    keys, features = np.ones((6, 32), np.uint8), np.ones((6, 2), np.float32)
    np.savez(file, digests=keys, features=features)
    yield "kept.npz", file.getvalue()  # features of an encoder


# As torch before version 1.6 writes a tensor [3, 2]. It stays a text: a library is not
# needed for it.
_OBJECTS = (
    b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"M\xe9\x03.", b"}q\x00.",
    b"ccollections\nOrderedDict\nq\x00)Rq\x01X\x01\x00\x00\x00aq\x02"
    b"ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\x00\x00\x00storageq\x04"
    b"ctorch\nFloatStorage\nq\x05X\x01\x00\x00\x007q\x06X\x03\x00\x00\x00cpuq\x07"
    b"K\x06Ntq\x08QK\x00K\x03K\x02\x86q\tK\x02K\x01\x86q\n\x89h\x00)Rq\x0btq\x0c"
    b"Rq\rs.",
    b"]q\x00X\x01\x00\x00\x007q\x01a.",
)  # fmt: skip


def pickles():
    content = b"".join(b"\x80\x02" + each for each in _OBJECTS)
    numbers = np.int64(6).tobytes() + np.arange(6, dtype="<f4").tobytes()
    yield "weights.pth", content + numbers


OTHERS = dict([*images(), *archives(), *tables(), *arrays(), *pickles()])
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
    elif path.name == "weights.safetensors":
        torch_weights.read_safetensors(path)
    elif path.name == "weights.pth":
        # Of any other contents nothing is read; this is what lies under that.
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        torch_weights.read_pickle(path, digest)
    elif path.name == "kept.npz":
        keys = np.ones((1, 32), np.uint8)
        feature_store.FeatureStore(path.parent).find(keys)
    else:
        config = made_up.configuration()
        is_folder = path.suffix == ".npy"
        config.data.data_dir = str(path.parent if is_folder else path)
        embeddings.load(config.data, seed=0)


def test_what_is_changed_is_read_first(whole, tmp_path):
    for name, content in OTHERS.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content)
        np.save(folder / "train_labels.npy", np.arange(6) % 2)
        read(folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it then reads.
def test_files_with_changed_bytes(name, whole, tmp_path):
    if name in hostile.FILES:
        for other in whole.iterdir():
            (tmp_path / other.name).write_bytes(other.read_bytes())
    else:
        (tmp_path / name).write_bytes(OTHERS[name])
        if name.endswith(".npy"):
            np.save(tmp_path / "train_labels.npy", np.arange(6) % 2)
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
