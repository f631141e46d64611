"""Labels and ids of prepared data, kept beside them: used, made again, done without."""

import os

import numpy as np
import pytest
from PIL import Image

from autodo_jax.data.sources import tfds
from autodo_jax.disk import regular
from autodo_jax.errors import DataError
from tests.data.sources.test_tfds import data_config, write_records
from tests.data.tiny import prepare_tiny_cifar10

RECORDS = tfds._records


@pytest.fixture
def folder(tmp_path):
    """A tiny CIFAR-10 of 60 and 20 points."""
    prepare_tiny_cifar10(tmp_path, num_train=60, num_test=20)
    return tmp_path / "cifar10" / "3.0.2"


@pytest.fixture
def read(monkeypatch):
    """Numbers of the records that are read in turn."""
    rows = []

    def records(source, chosen):
        rows.append(len(chosen))
        return RECORDS(source, chosen)

    monkeypatch.setattr(tfds, "_records", records)
    return rows


def load(folder, **fields):
    return tfds.load(data_config("cifar10", folder.parents[1], **fields), seed=0)


def names(folder):
    return sorted(file.name for file in folder.glob("*index*"))


INDICES = ["autodo_jax_index_test.npz", "autodo_jax_index_train.npz"]


def test_preparation_writes_the_indices(folder, read):
    assert names(folder) == INDICES
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []
    parts = load(folder, stream=True, max_train_points=20)
    assert read == []
    assert len(parts.train.ids) == 20
    load(folder, max_train_points=20)
    assert read == [20, 20]  # images of the chosen train points and all test points


def test_indices_hold_what_the_records_hold(folder):
    import tensorflow_datasets

    for part in ("train", "test"):
        records = tensorflow_datasets.data_source(
            "cifar10", data_dir=folder.parents[1], split=part, download=False
        )
        with np.load(folder / f"autodo_jax_index_{part}.npz") as index:
            labels, ids = index["labels"], index["ids"]
        assert [record["label"] for record in records] == labels.tolist()
        assert [record["id"].decode() for record in records] == ids.tolist()


def test_an_absent_index_is_made_and_kept(folder, read):
    expected = load(folder)
    read.clear()
    for name in INDICES:
        (folder / name).unlink()
    for _ in range(2):
        parts = load(folder, stream=True)
        assert read == [60, 20]  # in the first turn only
        assert names(folder) == INDICES
        np.testing.assert_array_equal(parts.train.ids, expected.train.ids)
        np.testing.assert_array_equal(parts.train.labels, expected.train.labels)


def array_alone(path):
    with open(path, "wb") as file:
        np.save(file, LABELS)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # of the labels; a bit of a header may change nothing
    path.write_bytes(content)


def save(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


IDS = np.array(["x"] * 60)
LABELS = np.zeros(60, np.int32)
DAMAGES = {
    "another array": lambda path: save(path, labels=LABELS),
    "bit": flip,
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "objects": lambda path: save(path, labels=LABELS, ids=IDS.astype(object)),
    "one array": array_alone,
    "text": lambda path: path.write_text("text"),
    "too few ids": lambda path: save(path, labels=LABELS, ids=IDS[:-1]),
    "too few points": lambda path: save(path, labels=LABELS[:-1], ids=IDS[:-1]),
    "words": lambda path: save(path, labels=IDS, ids=IDS),
    "scalars": lambda path: save(path, labels=np.int32(3), ids=np.array("x")),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_index_is_made_anew(folder, read, damage):
    expected, path = load(folder), folder / INDICES[1]
    read.clear()
    DAMAGES[damage](path)
    found = load(folder, stream=True)
    assert read == [60]
    np.testing.assert_array_equal(found.train.ids, expected.train.ids)
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    if damage != "folder":
        load(folder, stream=True)
        assert read == [60]
    assert sorted(names(folder)) == INDICES


@pytest.mark.parametrize("stream", [False, True])
def test_an_index_of_other_data_is_told_when_images_are_read(folder, stream):
    with np.load(folder / INDICES[1]) as index:
        labels, ids = index["labels"], index["ids"]
    save(folder / INDICES[1], labels=(labels + 1) % 10, ids=ids)
    with pytest.raises(
        DataError, match=r"has an index of other data; remove .*npz, which"
    ):
        load(folder, stream=stream).train.images[3]


@pytest.mark.parametrize("function", ["open", "replace"])
def test_where_nothing_can_be_written_it_goes_on(folder, read, monkeypatch, function):
    expected = load(folder)
    for name in INDICES:
        (folder / name).unlink()

    def refuse(path, *args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    if function == "open":
        monkeypatch.setattr(regular, "open", refuse, raising=False)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    read.clear()
    for _ in range(2):
        found = load(folder, stream=True)
        np.testing.assert_array_equal(found.train.labels, expected.train.labels)
        np.testing.assert_array_equal(list(found.train.images), expected.train.images)
    assert read == [60, 20] * 2
    assert names(folder) == []


def test_damaged_records_are_named_while_the_index_is_made(folder):
    for name in INDICES:
        (folder / name).unlink()
    records = folder / "cifar10-train.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[:-70000])
    with pytest.raises(DataError, match=r"3\.0\.2 cannot be read: .* --overwrite$"):
        load(folder, stream=True)
    assert names(folder) == []


def test_the_extra_set_has_an_index_of_its_own(monkeypatch, tmp_path):
    def points(split, count):
        image = Image.new("RGB", (32, 32))
        for i in range(count):
            name = f"{split}_{i:06d}"
            yield name, {"id": name, "image": image, "label": i % 10}

    sizes = {"train": 20, "test": 10, "extra": 30}
    write_records(
        monkeypatch,
        "svhn",
        tmp_path,
        **{split: list(points(split, size)) for split, size in sizes.items()},
    )
    found = [file.name for file in tmp_path.glob("svhn_cropped/*/*.npz")]
    assert sorted(found) == [
        "autodo_jax_index_test.npz",
        "autodo_jax_index_train+extra.npz",
        "autodo_jax_index_train.npz",
    ]
    for extra in (False, True):
        resident, streamed = (
            tfds.load(
                data_config("svhn", tmp_path, extra=extra, stream=stream), seed=0
            ).train
            for stream in (False, True)
        )
        assert len(streamed.ids) == (50 if extra else 20)
        np.testing.assert_array_equal(streamed.ids, resident.ids)
        np.testing.assert_array_equal(streamed.labels, resident.labels)


def test_many_labels_are_announced(folder, monkeypatch, capsys):
    (folder / INDICES[1]).unlink()
    monkeypatch.setattr(tfds, "_MANY", 59)
    load(folder, stream=True)
    assert capsys.readouterr().err == "cifar10_train: reading 60 labels, once\n"
