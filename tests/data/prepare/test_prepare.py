"""From archives in the published layouts to data that reads back bit for bit."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from autodo_jax.data.prepare import __main__ as prepare
from autodo_jax.data.prepare import cifar
from autodo_jax.data.sources import tfds
from autodo_jax.errors import DataError
from tests.data import tiny
from tests.data.sources.test_tfds import data_config, load_parts, number


def run(name, source, data_dir, *flags):
    """The exit status of the command line."""
    args = [name, f"--source={source}", f"--data_dir={data_dir}", *flags]
    return prepare.main(args)


def random_images(rng, num_points, num_classes=10):
    images = rng.integers(0, 256, (num_points, 32, 32, 3), dtype=np.uint8)
    return images, rng.permutation(num_points) % num_classes


def assert_prepared(part, images, labels, class_names):
    """`part` holds these points, found by the number in their ids."""
    rows = number(part.ids)
    assert sorted(rows) == list(range(len(labels)))
    np.testing.assert_array_equal(part.images, images[rows])
    np.testing.assert_array_equal(part.labels, labels[rows])
    assert part.class_names == tuple(class_names)


def write_cifar10(form, source, images, labels):
    """Writes an archive or folder in `source`, 10 test points; what --source names."""
    form_of_files = "binary" if form == "binary" else "python"
    files = tiny.cifar10_files(form_of_files, images, labels, 10)
    path = source / f"cifar-10-{form_of_files}.tar.gz"
    path.write_bytes(tiny.tar_bytes(files))
    if form in ("binary", "python"):
        return source
    if form == "file":
        return path.rename(source / "renamed.tgz")
    path.unlink()
    for name, contents in files.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(contents)
    return source if form == "parent" else source / "cifar-10-batches-py"


@pytest.mark.parametrize("form", ["binary", "file", "folder", "parent", "python"])
def test_cifar10(form, rng, source, data_dir, capsys):
    images, labels = random_images(rng, 40)
    path = write_cifar10(form, source, images, labels)
    assert run("cifar10", path, data_dir) == 0
    output = capsys.readouterr()
    folder = data_dir / "cifar10" / "3.0.2"
    assert output.out.splitlines() == [
        f"cifar10: train 30, test 10 points in {folder}",
        "The published train set has 50,000 points, not 30.",
        "The published test set has 10,000 points, not 10.",
    ]
    assert output.err == ""
    train, test = load_parts(data_config("cifar10", data_dir))
    assert_prepared(train, images[:30], labels[:30], tiny.CIFAR10_NAMES)
    assert_prepared(test, images[30:], labels[30:], tiny.CIFAR10_NAMES)


def write_cifar100(form, source, images, fine, coarse):
    files = tiny.cifar100_files(form, images, fine, coarse, num_test=100)
    (source / f"cifar-100-{form}.tar.gz").write_bytes(tiny.tar_bytes(files))


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar100(form, rng, source, data_dir):
    import tensorflow_datasets

    images, fine = random_images(rng, 220, 100)
    coarse = rng.integers(0, 20, 220)
    write_cifar100(form, source, images, fine, coarse)
    assert run("cifar100", source, data_dir) == 0
    train, test = load_parts(data_config("cifar100", data_dir))
    assert_prepared(train, images[:120], fine[:120], tiny.FINE)
    assert_prepared(test, images[120:], fine[120:], tiny.FINE)
    builder = tensorflow_datasets.builder("cifar100", data_dir=data_dir)
    assert builder.info.features["coarse_label"].names == tiny.COARSE
    for record in builder.as_data_source("test"):
        row = int(record["id"].decode().removeprefix("test_"))
        assert record["coarse_label"] == coarse[120 + row]


@pytest.mark.parametrize("form", ["binary", "python"])
def test_examples_are_those_of_the_builder_of_tfds(form, rng, source, monkeypatch):
    # Same keys, so the same order once hashed; its reader of files needs TensorFlow.
    from tensorflow_datasets.image_classification import cifar as stock

    images, fine = random_images(rng, 220, 100)
    coarse = rng.integers(0, 20, 220)
    points = list(zip(zip(coarse, fine, strict=True), images, strict=True))
    monkeypatch.setattr(stock, "_load_data", lambda path, num_labels: points[-100:])
    builder = stock.Cifar100(data_dir=source)
    write_cifar100(form, source, images, fine, coarse)
    ours = cifar.cifar("cifar100", source).splits["test"]
    expected = builder._generate_examples("test_", ["test.bin"])
    for (key, fields), (stock_key, stock_fields) in zip(ours, expected, strict=True):
        assert key == stock_key and fields.keys() == stock_fields.keys()
        for name in ("id", "label", "coarse_label"):
            assert fields[name] == stock_fields[name]
        np.testing.assert_array_equal(fields["image"], stock_fields["image"])


@pytest.mark.parametrize("extra", [False, True])
def test_svhn(extra, rng, source, data_dir):
    sizes = {"train": 30, "test": 20} | ({"extra": 25} if extra else {})
    points = {name: random_images(rng, size) for name, size in sizes.items()}
    for name, (images, labels) in points.items():
        # MATLAB counts from one: the digit 0 has the label 10.
        tiny.write_mat(
            source / f"{name}_32x32.mat", images, np.where(labels == 0, 10, labels)
        )
    assert run("svhn", source, data_dir) == 0
    train, test = load_parts(data_config("svhn", data_dir))
    for part, name in ((train, "train"), (test, "test")):
        images, labels = points[name]
        assert_prepared(part, images, labels, "0123456789")
    if not extra:
        with pytest.raises(DataError, match="has no extra split; put the archive"):
            tfds.load(data_config("svhn", data_dir, extra=True), seed=0)
        return
    both, _ = load_parts(data_config("svhn", data_dir, extra=True))
    np.testing.assert_array_equal(both.ids[:30], train.ids)
    assert all(name.startswith("extra_") for name in both.ids[30:])
    images, labels = points["extra"]
    assert_prepared(both.take(np.arange(30, 55)), images, labels, "0123456789")


def mnist_points(rng):
    def points(size):
        images = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        return images, rng.permutation(size) % 10

    return {"train": points(40), "t10k": points(15)}


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist(compressed, rng, source, data_dir):
    points = mnist_points(rng)
    tiny.write_mnist(source, points, compressed)
    assert run("mnist", source, data_dir) == 0
    parts = load_parts(data_config("mnist", data_dir, mean=(0.1,)))
    for part, (images, labels) in zip(parts, points.values(), strict=True):
        # MNIST has no ids: points are told apart by their pixels.
        row = {image.tobytes(): i for i, image in enumerate(images)}
        rows = np.array([row[image.tobytes()] for image in part.images])
        assert_prepared(
            part._replace(ids=np.array([f"_{i}" for i in rows])),
            images[..., None],
            labels,
            "0123456789",
        )


def jpeg(rng, mode="RGB"):
    """A file of which a half or a quarter has whole pixels."""
    height, width = rng.permutation(rng.choice([[32, 48], [32, 32], [64, 128]]))
    num_channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    pixels = rng.integers(0, 256, (height, width, num_channels), dtype=np.uint8)
    image = Image.frombytes(mode, (int(width), int(height)), pixels.tobytes())
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


# The first validation labels and the first classes, as published.
VALIDATION_LABELS = ["n01751748", "n09193705", "n02105855"]
CLASSES = ["n01440764", "n01443537"]


def imagenet_files(rng):
    train = {
        wnid: {f"{wnid}_{i}.JPEG": jpeg(rng, mode) for i, mode in enumerate(modes)}
        for wnid, modes in zip(CLASSES, (("RGB", "L"), ("CMYK", "RGB")), strict=True)
    }
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (2, 1, 3)]
    return train, {name: jpeg(rng) for name in names}


def write_unpacked_imagenet(source, train, validation):
    for wnid, files in train.items():
        (source / "train" / wnid).mkdir(parents=True)
        for name, data in files.items():
            (source / "train" / wnid / name).write_bytes(data)
    (source / "val" / "any").mkdir(parents=True)
    for name, data in validation.items():
        (source / "val" / "any" / name).write_bytes(data)


@pytest.mark.parametrize("write", [tiny.write_imagenet, write_unpacked_imagenet])
def test_imagenet(write, rng, source, data_dir):
    import tensorflow_datasets

    train, validation = imagenet_files(rng)
    write(source, train, validation)
    assert run("imagenet", source, data_dir) == 0
    builder = tensorflow_datasets.builder("imagenet2012", data_dir=data_dir)
    files = {name: data for folder in train.values() for name, data in folder.items()}
    labels = {name: name.partition("_")[0] for name in files}
    labels |= dict(zip(sorted(validation), VALIDATION_LABELS, strict=True))
    decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
    for split, expected in (("train", files), ("validation", validation)):
        records = builder.as_data_source(split, decoders=decoders)
        stored = {record["file_name"].decode(): record["image"] for record in records}
        assert stored == expected  # not a byte is changed
    parts = load_parts(data_config("imagenet", data_dir, image_size=(16, 16)))
    for part, expected in zip(parts, (files, validation), strict=True):
        assert set(part.ids) == set(expected)
        for i, name in enumerate(part.ids):
            assert part.class_names[part.labels[i]] == labels[name]
            image = Image.open(io.BytesIO(expected[name])).convert("RGB")
            scale = 16 / min(image.size)
            size = [int(side * scale) for side in image.size]
            resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
            top, left = (resized.shape[0] - 16) // 2, (resized.shape[1] - 16) // 2
            centre = resized[top : top + 16, left : left + 16]
            np.testing.assert_allclose(part.images[i], centre.astype(int), atol=1)


def test_neither_tensorflow_nor_a_network_is_needed(rng, source, data_dir):
    images, labels = random_images(rng, 40)
    write_cifar10("python", source, images, labels)
    program = f"""
import socket, sys
def connect(*args):
    raise AssertionError("connects")
socket.socket.connect = socket.getaddrinfo = connect
from autodo_jax.data.prepare import __main__ as prepare
from autodo_jax.data.sources import tfds
from tests.data.sources.test_tfds import data_config
assert prepare.main(["cifar10", "--source={source}", "--data_dir={data_dir}"]) == 0
assert len(tfds.load(data_config("cifar10", "{data_dir}"), seed=0).train.labels) == 30
assert "tensorflow" not in sys.modules
"""
    root = pathlib.Path(__file__).parents[3]
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
