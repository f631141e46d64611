"""Reading prepared data: points, subsets, images, and what is said of absent data."""

import io
import json
import shutil
import socket
import sys
import time

import numpy as np
import pytest
from PIL import Image

from autodo_jax.config import default_config
from autodo_jax.data.images import decode
from autodo_jax.data.prepare import __main__ as prepare
from autodo_jax.data.prepare import originals
from autodo_jax.data.sources import tfds
from autodo_jax.errors import DataError
from tests.data.tiny import CIFAR10_NAMES, prepare_tiny_cifar10

NUM_TRAIN, NUM_TEST = 200, 50
RECORDS = "cifar10-train.array_record-00000-of-00001"


def data_config(source, data_dir, **fields):
    data = default_config().data
    given = {"source": source, "data_dir": str(data_dir), "mean": (0.5, 0.5, 0.5)}
    data.update({**given, **fields})
    return data


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """(folder of prepared data, images, labels), train before test."""
    data_dir = tmp_path_factory.mktemp("prepared")
    return data_dir, *prepare_tiny_cifar10(
        data_dir, num_train=NUM_TRAIN, num_test=NUM_TEST
    )


@pytest.fixture
def copied(cifar10, tmp_path):
    """Folder of the records, of a copy that may be damaged; (data_dir, folder)."""
    data_dir = tmp_path / "copy"
    shutil.copytree(cifar10[0], data_dir)
    return data_dir, data_dir / "cifar10" / "3.0.2"


def load_parts(data, seed=0):
    """(train, test) of a source that has both."""
    parts = tfds.load(data, seed)
    assert parts.validation is None and parts.test is not None
    return parts.train, parts.test


def number(ids):
    return np.array([int(name.rpartition("_")[2]) for name in ids])


def write_records(monkeypatch, name, data_dir, **splits):
    """Prepares the examples given for each split as the data set `name`."""
    original = originals.Original({key: iter(splits[key]) for key in splits}, {})
    monkeypatch.setitem(prepare.READERS, name, lambda source: original)
    prepare.prepare(name, str(data_dir), str(data_dir))


def test_points_are_those_prepared(cifar10):
    data_dir, pixels, labels = cifar10
    train, test = load_parts(data_config("cifar10", data_dir))
    for part, name, start in ((train, "train", 0), (test, "test", 200)):
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int32
        assert part.class_names == CIFAR10_NAMES
        rows = number(part.ids)
        assert sorted(rows) == list(range(200 if name == "train" else 50))
        assert all(point.startswith(f"{name}_") for point in part.ids)
        np.testing.assert_array_equal(part.images, pixels[start + rows])
        np.testing.assert_array_equal(part.labels, labels[start + rows])


def test_order_and_pixels_are_those_of_tfds(cifar10):
    import tensorflow_datasets

    records = tensorflow_datasets.data_source(
        "cifar10", data_dir=cifar10[0], split="train", download=False
    )
    train = tfds.load(data_config("cifar10", cifar10[0]), seed=0).train
    assert [record["id"].decode() for record in records] == train.ids.tolist()
    assert [record["label"] for record in records] == train.labels.tolist()
    np.testing.assert_array_equal([r["image"] for r in records], train.images)


def test_default_directory_is_that_of_tfds(cifar10, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10[0]))
    assert len(tfds.load(data_config("cifar10", ""), seed=0).train.labels) == 200
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds.directory("") == tmp_path / "tensorflow_datasets"
    assert tfds.directory("~/x") == tmp_path / "x"


def test_a_part_is_stratified_and_chosen_by_the_seed(cifar10):
    data = data_config("cifar10", cifar10[0], max_train_points=60, max_test_points=20)
    train, test = load_parts(data, seed=1)
    np.testing.assert_array_equal(np.bincount(train.labels), [6] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [2] * 10)
    np.testing.assert_array_equal(train.ids, load_parts(data, seed=1)[0].ids)
    assert set(train.ids) != set(load_parts(data, seed=2)[0].ids)
    np.testing.assert_array_equal(train.images, cifar10[1][number(train.ids)])
    everything = tfds.load(data_config("cifar10", cifar10[0]), seed=0).train.ids
    kept = [point for point in everything if point in set(train.ids)]
    assert kept == train.ids.tolist()  # in the stored order


def test_only_the_chosen_images_are_decoded(cifar10, monkeypatch):
    decoded = []

    def to_array(image, **options):
        decoded.append(image)
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(decode, "to_array", to_array)
    data = data_config("cifar10", cifar10[0], max_train_points=20, max_test_points=10)
    tfds.load(data, seed=0)
    assert len(decoded) == 30


def test_too_little_memory_is_said(cifar10, monkeypatch):
    empty = np.empty

    def full(shape, *args, **options):
        if np.ndim(shape) and len(shape) == 4:
            raise MemoryError
        return empty(shape, *args, **options)

    monkeypatch.setattr(np, "empty", full)
    assert refusal(data_config("cifar10", cifar10[0])) == (
        "200 images of 32x32 pixels take 0.0 GB, more than this machine's memory; set "
        "config.data.max_train_points, or set a smaller config.data.image_size"
    )


def test_more_points_than_there_are_means_all(cifar10):
    data = data_config("cifar10", cifar10[0], max_train_points=1000)
    assert len(tfds.load(data, seed=0).train.labels) == NUM_TRAIN


def test_too_few_points_for_the_classes_names_the_field(cifar10):
    data = data_config("cifar10", cifar10[0], max_train_points=7)
    with pytest.raises(DataError, match=r"config\.data\.max_train_points is 7"):
        tfds.load(data, seed=0)


def test_images_are_resized_and_grey_where_one_channel_is_asked_for(cifar10):
    data_dir, pixels, _ = cifar10
    data = data_config(
        "cifar10", data_dir, image_size=(16, 24), resize="stretch", mean=(0.5,)
    )
    train = tfds.load(data, seed=0).train
    assert train.images.shape == (NUM_TRAIN, 16, 24, 1)
    for row in (0, 77, 199):
        image = Image.fromarray(pixels[number(train.ids)[row]]).convert("L")
        expected = np.asarray(image.resize((24, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(train.images[row][..., 0], expected)


def test_ids_are_positions_where_the_data_set_has_none(monkeypatch, tmp_path):
    def points(count):
        for i in range(count):
            yield i, {"image": Image.new("L", (28, 28), i), "label": i % 10}

    write_records(monkeypatch, "mnist", tmp_path, train=points(30), test=points(10))
    train, test = load_parts(data_config("mnist", tmp_path, mean=(0.1,)))
    assert train.ids.tolist() == [f"mnist_train_{i:05d}" for i in range(30)]
    assert test.ids[3] == "mnist_test_00003"
    assert train.class_names == tuple("0123456789")
    # The id is of the stored position also where a part is taken.
    data = data_config("mnist", tmp_path, mean=(0.1,), max_train_points=10)
    part = tfds.load(data, seed=0).train
    np.testing.assert_array_equal(part.images, train.images[number(part.ids)])


def jpeg(size):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JPEG")
    return file.getvalue()


def imagenet_points(*files):
    for i, data in enumerate(files):
        name = f"n01440764_{i}.JPEG"
        yield name, {"file_name": name, "image": data, "label": "n01440764"}


def test_images_of_several_sizes_need_a_size(monkeypatch, tmp_path):
    points = [list(imagenet_points(jpeg((40, 30)), jpeg((30, 40)))) for _ in range(2)]
    write_records(
        monkeypatch, "imagenet", tmp_path, train=points[0], validation=points[1]
    )
    with pytest.raises(DataError, match=r"n01.*JPEG in .*pixels.*image_size = \("):
        tfds.load(data_config("imagenet", tmp_path), seed=0)
    parts = tfds.load(data_config("imagenet", tmp_path, image_size=(20, 20)), seed=0)
    assert parts.train.images.shape == (2, 20, 20, 3)
    assert len(parts.train.class_names) == 1000


def test_damaged_image_is_named_by_its_folder(monkeypatch, tmp_path):
    for file in (b"text", jpeg((64, 64))[:-300]):
        write_records(
            monkeypatch,
            "imagenet",
            tmp_path,
            train=imagenet_points(file),
            validation=imagenet_points(jpeg((8, 8))),
        )
        with pytest.raises(
            DataError, match=r"1440764_0.JPEG in .*012/5\.1\.0 cannot be read"
        ):
            tfds.load(data_config("imagenet", tmp_path, image_size=(8, 8)), seed=0)


def refusal(data):
    """The message of the refusal: one line, in time, without a network."""
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        tfds.load(data, seed=0)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def no_network(monkeypatch):
    def connect(*args):
        raise AssertionError(f"connects to {args}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.mark.parametrize("source", sorted(tfds.NAMES))
def test_absent_data_is_named_with_the_command_that_prepares_it(
    source, tmp_path, no_network
):
    for data_dir in (tmp_path, tmp_path / "absent"):
        assert refusal(data_config(source, data_dir)) == (
            f"{source} is not prepared in {data_dir}; get its archive from its home "
            f"page and run python -m autodo_jax.data.prepare {source} --source=DIR "
            f"--data_dir={data_dir}"
        )
    assert list(tmp_path.iterdir()) == []


def test_file_for_a_folder_is_refused(tmp_path):
    file = tmp_path / "cifar10.tar"
    file.touch()
    assert refusal(data_config("cifar10", file)) == (
        f"{file} is a file, expected a folder; pass another data_dir"
    )


def test_absent_split_is_named(cifar10, copied):
    data_dir, folder = copied
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    message = refusal(data_config("cifar10", data_dir))
    assert message.startswith(f"{folder} has no test split; put the archive")
    assert message.endswith(f"--data_dir={data_dir} --overwrite")


def test_data_of_tensorflow_is_told_apart(copied):
    data_dir, folder = copied
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for file in folder.glob("*array_record*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    message = refusal(data_config("cifar10", data_dir))
    assert message.startswith(f"{folder} is stored as tfrecord, which needs TensorFlow")
    assert f"prepare cifar10 --source=DIR --data_dir={data_dir} --overwrite" in message


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "absent": lambda file: file.unlink(),
    "bit": flip_bit,
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-70000]),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_records_are_named(copied, damage):
    data_dir, folder = copied
    DAMAGES[damage](folder / RECORDS)
    message = refusal(data_config("cifar10", data_dir))
    assert message.startswith(f"{folder} cannot be read: ")
    assert message.endswith(f"--data_dir={data_dir} --overwrite")


def test_damaged_description_is_named(copied):
    data_dir, folder = copied
    (folder / "dataset_info.json").write_text("{")
    message = refusal(data_config("cifar10", data_dir))
    assert message.startswith(f"{folder.parent} cannot be read: ")
    assert message.endswith(f"move {folder.parent} elsewhere and prepare it again")


def test_unfinished_preparation_counts_as_absent(copied):
    data_dir, folder = copied
    folder.rename(folder.parent / "incomplete.ABCDEF_3.0.2")
    assert "cifar10 is not prepared in" in refusal(data_config("cifar10", data_dir))


def test_missing_library_is_named(cifar10, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = refusal(data_config("cifar10", cifar10[0]))
    assert message.startswith("cifar10 is read by TensorFlow Datasets")
    assert "pip install tensorflow-datasets" in message
