"""Archives that are absent, damaged or hostile, and preparations cut short."""

import gzip
import os
import pickle

import numpy as np
import pytest
import scipy.io

from autodo_jax.data.prepare import __main__ as prepare
from autodo_jax.data.sources import tfds
from autodo_jax.errors import DataError
from tests.data import tiny
from tests.data.sources.test_tfds import data_config


def refusal(capsys, name, source, data_dir, status, *flags):
    """The one line on stderr of a command that ends with `status`."""
    args = [name, f"--source={source}", f"--data_dir={data_dir}", *flags]
    assert prepare.main(args) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err.strip()


FIRST_FILES = {
    "cifar10": "cifar-10-python.tar.gz, cifar-10-binary.tar.gz, cifar-10-batches-py",
    "cifar100": "cifar-100-python.tar.gz, cifar-100-binary.tar.gz, cifar-100-python",
    "imagenet": "ILSVRC2012_img_train.tar, train",
    "mnist": "train-images-idx3-ubyte.gz, train-images-idx3-ubyte",
    "svhn": "train_32x32.mat",
}


@pytest.mark.parametrize("name", sorted(FIRST_FILES))
def test_absent_archive_is_named(name, source, data_dir, capsys):
    message = refusal(capsys, name, source, data_dir, 2)
    assert message.startswith(f"{source} holds none of {FIRST_FILES[name]}")
    absent = source / "absent"
    message = refusal(capsys, name, absent, data_dir, 2)
    expected = "does not exist; set --source to the folder of the archives"
    assert message == f"{absent} {expected}"
    assert not data_dir.exists()


def test_usage_errors_have_status_2(source, capsys):
    for args in ([], ["cifar10"], ["cifar11", f"--source={source}"]):
        with pytest.raises(SystemExit) as caught:
            prepare.main(args)
        assert caught.value.code == 2
        assert "usage: python -m autodo_jax.data.prepare" in capsys.readouterr().err


def random_points(num_points=40, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_points, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(num_points) % 10


def write_cifar10(source, changes=None, form="binary"):
    """Writes an archive; `changes`: {file: contents}, None where it is left out."""
    images, labels = random_points()
    files = tiny.cifar10_files(form, images, labels, num_test=10)
    files = {path.partition("/")[2]: data for path, data in files.items()}
    files |= changes or {}
    path = source / f"cifar-10-{form}.tar.gz"
    files = {f"x/{name}": data for name, data in files.items() if data is not None}
    return written(path, tiny.tar_bytes(files))


def write_test_batch(source, **fields):
    """Writes an archive whose test batch has `fields`, too."""
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]} | fields
    changes = {"test_batch": tiny.python2_pickle(batch)}
    return write_cifar10(source, changes, form="python")


def write_mnist(source, **changes):
    rng = np.random.default_rng(0)
    points = {
        name: (rng.integers(0, 256, (20, 28, 28)), np.arange(20) % 10)
        for name in ("train", "t10k")
    }
    tiny.write_mnist(source, points | changes, compressed=True)
    return source / "train-images-idx3-ubyte.gz"


def write_svhn(source, labels=None, **contents):
    images, digits = random_points()
    path = source / "train_32x32.mat"
    for file in (path, source / "test_32x32.mat"):
        tiny.write_mat(file, images, digits + 1 if labels is None else labels)
    if contents:
        scipy.io.savemat(path, contents)
    return path


def write_imagenet(source, train, validation=None):
    validation = validation or {"ILSVRC2012_val_00000001.JPEG": b"jpeg"}
    tiny.write_imagenet(source, train, validation)
    return source / "ILSVRC2012_img_train.tar"


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def labels_of(images):
    return images.with_name(images.name.replace("images-idx3", "labels-idx1"))


def written(path, data):
    path.write_bytes(data)
    return path


class Bomb:
    """Its pickle calls a function of the system."""

    def __reduce__(self):
        return os.mkdir, ("/this/is/called",)


BOMB = pickle.dumps(Bomb(), protocol=2)


ZEROS = np.zeros((20, 28, 28))

# Name -> (damages the archives and returns what is damaged, what is said of it).
DAMAGES = {
    "cifar10 bit": (lambda at: flipped(write_cifar10(at)), "CRC check failed"),
    "cifar10 bomb": (
        lambda at: write_cifar10(at, {"test_batch": BOMB}, form="python"),
        "it calls posix.mkdir",
    ),
    "cifar10 empty batch": (
        lambda at: write_cifar10(at, {"test_batch.bin": b""}),
        "it has a batch without images",
    ),
    "cifar10 label": (
        lambda at: write_test_batch(at, labels=[0, 10]),
        "label is not in 0..9",
    ),
    "cifar10 labels": (
        lambda at: write_test_batch(at, labels=[0]),
        "label is not in 0..9",
    ),
    "cifar10 lacks": (
        lambda at: write_cifar10(at, {"data_batch_4.bin": None}),
        "it lacks data_batch_4.bin",
    ),
    "cifar10 names": (
        lambda at: write_cifar10(at, {"batches.meta.txt": b"cat\ndog\n"}),
        "it has 2 names of label",
    ),
    "cifar10 pixels": (
        lambda at: write_test_batch(at, data=np.zeros((2, 3072))),
        "it has pixels of float64",
    ),
    "cifar10 text": (
        lambda at: written(write_cifar10(at), b"<html>"),
        "file could not be opened",
    ),
    "cifar10 truncated": (lambda at: truncated(write_cifar10(at)), ""),
    "cifar10 truncated batch": (
        lambda at: write_cifar10(at, {"test_batch.bin": b"\0" * 4000}),
        "cannot reshape",
    ),
    "imagenet class": (
        lambda at: write_imagenet(at, {"cats": {"a.JPEG": b"jpeg"}}),
        "cats is not a class of ImageNet",
    ),
    "imagenet empty": (lambda at: write_imagenet(at, {}), "it holds no images"),
    "imagenet inner": (
        lambda at: written(
            write_imagenet(at, {}), tiny.tar_bytes({"n01440764.tar": b"text"}, "w")
        ),
        "file could not be opened",
    ),
    "imagenet truncated": (
        lambda at: truncated(
            write_imagenet(at, {"n01440764": {"a.JPEG": bytes(50_000)}})
        ),
        "unexpected end of data",
    ),
    "mnist bit": (lambda at: flipped(write_mnist(at)), "CRC check failed"),
    "mnist count": (
        lambda at: labels_of(write_mnist(at, train=(ZEROS, np.zeros(19)))),
        "it has 19 labels for 20 images",
    ),
    "mnist label": (
        lambda at: labels_of(write_mnist(at, train=(ZEROS, np.full(20, 10)))),
        "it has the label 10",
    ),
    "mnist magic": (
        lambda at: written(write_mnist(at), gzip.compress(tiny.idx(np.zeros(20)))),
        "it is not an idx file with 3 axes",
    ),
    "mnist pixels": (
        lambda at: write_mnist(at, train=(np.zeros((2, 8, 8)), np.zeros(2))),
        "it has images of 8x8",
    ),
    "mnist truncated": (lambda at: truncated(write_mnist(at)), ""),
    "mnist truncated inside": (
        lambda at: written(write_mnist(at), gzip.compress(tiny.idx(ZEROS)[:-1])),
        "cannot reshape",
    ),
    "svhn bit": (lambda at: flipped(write_svhn(at)), ""),
    "svhn keys": (lambda at: write_svhn(at, Z=np.zeros(3)), "X"),
    "svhn labels": (
        lambda at: write_svhn(at, labels=np.zeros(40)),
        "it has labels not in 1..10",
    ),
    "svhn text": (lambda at: written(write_svhn(at), b"<html>" * 100), ""),
    "svhn truncated": (lambda at: truncated(write_svhn(at)), ""),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_archive_is_named_and_leaves_nothing(damage, source, data_dir, capsys):
    name = damage.split()[0]
    write, reason = DAMAGES[damage]
    path = write(source)
    message = refusal(capsys, name, source, data_dir, 1)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith("; get it again")
    assert reason in message
    assert not data_dir.exists() or not os.listdir(data_dir)
    with pytest.raises(DataError, match="is not prepared in"):
        tfds.load(data_config(name, data_dir), seed=0)


def test_image_of_another_name_is_refused(source, data_dir, capsys):
    write_imagenet(source, {"n01440764": {"a.JPEG": b"jpeg"}}, {"cat.JPEG": b"jpeg"})
    message = refusal(capsys, "imagenet", source, data_dir, 1)
    assert message == (
        f"{source}/ILSVRC2012_img_val.tar is damaged: cat.JPEG is not a validation "
        "image; get it again"
    )


def test_all_files_of_a_data_set_are_looked_for_first(source, data_dir, capsys):
    write_mnist(source)
    (source / "t10k-labels-idx1-ubyte.gz").unlink()
    message = refusal(capsys, "mnist", source, data_dir, 2)
    assert "holds none of t10k-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte" in message
    write_svhn(source)
    (source / "test_32x32.mat").unlink()
    assert "test_32x32.mat" in refusal(capsys, "svhn", source, data_dir, 2)
    write_imagenet(source, {})
    (source / "ILSVRC2012_img_val.tar").unlink()
    message = refusal(capsys, "imagenet", source, data_dir, 2)
    assert "ILSVRC2012_img_val.tar, val" in message
    assert not data_dir.exists()
