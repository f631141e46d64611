"""Archives that are absent, damaged or hostile, and preparations cut short."""

import gzip
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.io

from autodo_jax.data import prepare, tfds
from autodo_jax.data.dataset import DataError
from tests.data import tiny
from tests.data.test_tfds import data_config, number


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    return folder


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "prepared"


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
    assert message == f"{absent} does not exist; set --source to a folder"
    assert not data_dir.exists()


def test_usage_errors_have_status_2(source, capsys):
    for args in ([], ["cifar10"], ["cifar11", f"--source={source}"]):
        with pytest.raises(SystemExit) as caught:
            prepare.main(args)
        assert caught.value.code == 2
        assert "usage: python -m autodo_jax.data.prepare" in capsys.readouterr().err


def random_points(rng, num_points=40):
    images = rng.integers(0, 256, (num_points, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(num_points) % 10


def write_cifar10(source, rng, form="binary", edit=lambda files: None):
    """Writes an archive whose files `edit` has changed."""
    images, labels = random_points(rng)
    files = tiny.cifar10_files(form, images, labels, num_test=10)
    files = {path.partition("/")[2]: data for path, data in files.items()}
    edit(files)
    path = source / f"cifar-10-{form}.tar.gz"
    path.write_bytes(tiny.tar_bytes({f"x/{name}": files[name] for name in files}))
    return path


def write_mnist(source, rng, **changes):
    points = {
        name: (rng.integers(0, 256, (20, 28, 28)), np.arange(20) % 10)
        for name in ("train", "t10k")
    }
    tiny.write_mnist(source, points | changes, compressed=True)
    return source / "train-images-idx3-ubyte.gz"


def write_svhn(source, rng, labels=None, **contents):
    images, digits = random_points(rng)
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


def written(path, data):
    path.write_bytes(data)
    return path


class Bomb:
    """Its pickle calls a function of the system."""

    def __reduce__(self):
        return os.mkdir, ("/this/is/called",)


def batch(**fields):
    pixels, labels = np.zeros((2, 3072), np.uint8), [0, 1]
    return tiny.python2_pickle({"data": pixels, "labels": labels} | fields)


# name -> (data set, what damages it and returns the damaged file, what is said of it)
DAMAGES = {
    "cifar10 bit": (
        "cifar10",
        lambda source, rng: flipped(write_cifar10(source, rng)),
        "CRC check failed",
    ),
    "cifar10 bomb": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source,
            rng,
            "python",
            lambda f: f.update(test_batch=pickle.dumps(Bomb(), 2)),
        ),
        "it calls posix.mkdir",
    ),
    "cifar10 empty batch": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source, rng, edit=lambda f: f.update({"test_batch.bin": b""})
        ),
        "it has a batch without images",
    ),
    "cifar10 label": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source, rng, "python", lambda f: f.update(test_batch=batch(labels=[0, 10]))
        ),
        "label is not in 0..9",
    ),
    "cifar10 labels": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source, rng, "python", lambda f: f.update(test_batch=batch(labels=[0]))
        ),
        "label is not in 0..9",
    ),
    "cifar10 lacks": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source, rng, edit=lambda f: f.pop("data_batch_4.bin")
        ),
        "it lacks data_batch_4.bin",
    ),
    "cifar10 names": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source, rng, edit=lambda f: f.update({"batches.meta.txt": b"cat\ndog\n"})
        ),
        "it has 2 names of label",
    ),
    "cifar10 pixels": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source,
            rng,
            "python",
            lambda f: f.update(test_batch=batch(data=np.zeros((2, 3072)))),
        ),
        "it has pixels of float64",
    ),
    "cifar10 text": (
        "cifar10",
        lambda source, rng: written(source / "cifar-10-python.tar.gz", b"<html>"),
        "file could not be opened",
    ),
    "cifar10 truncated": (
        "cifar10",
        lambda source, rng: truncated(write_cifar10(source, rng)),
        "",
    ),
    "cifar10 truncated batch": (
        "cifar10",
        lambda source, rng: write_cifar10(
            source, rng, edit=lambda f: f.update({"test_batch.bin": b"\0" * 4000})
        ),
        "cannot reshape",
    ),
    "imagenet class": (
        "imagenet",
        lambda source, rng: write_imagenet(source, {"cats": {"a.JPEG": b"jpeg"}}),
        "cats is no class of ImageNet",
    ),
    "imagenet empty": (
        "imagenet",
        lambda source, rng: write_imagenet(source, {}),
        "it holds no images",
    ),
    "imagenet inner": (
        "imagenet",
        lambda source, rng: written(
            write_imagenet(source, {}), tiny.tar_bytes({"n01440764.tar": b"text"}, "w")
        ),
        "file could not be opened",
    ),
    "imagenet truncated": (
        "imagenet",
        lambda source, rng: truncated(
            write_imagenet(source, {"n01440764": {"a.JPEG": bytes(50_000)}})
        ),
        "unexpected end of data",
    ),
    "mnist bit": (
        "mnist",
        lambda source, rng: flipped(write_mnist(source, rng)),
        "CRC check failed",
    ),
    "mnist count": (
        "mnist",
        lambda source, rng: write_mnist(
            source, rng, train=(np.zeros((20, 28, 28)), np.zeros(19))
        ).with_name("train-labels-idx1-ubyte.gz"),
        "it has 19 labels for 20 images",
    ),
    "mnist label": (
        "mnist",
        lambda source, rng: write_mnist(
            source, rng, train=(np.zeros((2, 28, 28)), np.array([3, 10]))
        ).with_name("train-labels-idx1-ubyte.gz"),
        "it has the label 10",
    ),
    "mnist magic": (
        "mnist",
        lambda source, rng: written(
            write_mnist(source, rng), gzip.compress(tiny.idx(np.zeros(20)))
        ),
        "it is no idx file with 3 axes",
    ),
    "mnist pixels": (
        "mnist",
        lambda source, rng: write_mnist(
            source, rng, train=(np.zeros((2, 8, 8)), np.zeros(2))
        ),
        "it has images of 8x8",
    ),
    "mnist truncated": (
        "mnist",
        lambda source, rng: truncated(write_mnist(source, rng)),
        "",
    ),
    "mnist truncated inside": (
        "mnist",
        lambda source, rng: written(
            write_mnist(source, rng),
            gzip.compress(tiny.idx(np.zeros((20, 28, 28)))[:-1]),
        ),
        "cannot reshape",
    ),
    "svhn bit": ("svhn", lambda source, rng: flipped(write_svhn(source, rng)), ""),
    "svhn keys": (
        "svhn",
        lambda source, rng: write_svhn(source, rng, Z=np.zeros(3)),
        "X",
    ),
    "svhn labels": (
        "svhn",
        lambda source, rng: write_svhn(source, rng, labels=np.zeros(40)),
        "it has labels not in 1..10",
    ),
    "svhn text": (
        "svhn",
        lambda source, rng: written(write_svhn(source, rng), b"<html>" * 100),
        "",
    ),
    "svhn truncated": (
        "svhn",
        lambda source, rng: truncated(write_svhn(source, rng)),
        "",
    ),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_archive_is_named_and_leaves_nothing(
    damage, rng, source, data_dir, capsys
):
    name, write, reason = DAMAGES[damage]
    path = write(source, rng)
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
        f"{source}/ILSVRC2012_img_val.tar is damaged: cat.JPEG is no validation image; "
        "get it again"
    )


def test_all_files_of_a_data_set_are_looked_for_first(rng, source, data_dir, capsys):
    write_mnist(source, rng)
    (source / "t10k-labels-idx1-ubyte.gz").unlink()
    message = refusal(capsys, "mnist", source, data_dir, 2)
    assert "holds none of t10k-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte" in message
    write_svhn(source, rng)
    (source / "test_32x32.mat").unlink()
    assert "test_32x32.mat" in refusal(capsys, "svhn", source, data_dir, 2)
    write_imagenet(source, {})
    (source / "ILSVRC2012_img_val.tar").unlink()
    message = refusal(capsys, "imagenet", source, data_dir, 2)
    assert "ILSVRC2012_img_val.tar, val" in message
    assert not data_dir.exists()


@pytest.fixture
def prepared(source, data_dir):
    """Twenty points, prepared; returns their pixels."""
    images, _ = tiny.prepare_tiny_cifar10(data_dir, num_train=20, num_test=20)
    return images


def stored_images(data_dir):
    train = tfds.load(data_config("cifar10", data_dir), seed=0).train
    return train.images[np.argsort(number(train.ids))]


def test_prepared_data_is_kept(prepared, rng, source, data_dir, capsys):
    write_cifar10(source, rng)
    args = ["cifar10", f"--source={source}", f"--data_dir={data_dir}"]
    assert prepare.main(args) == 0
    assert capsys.readouterr().out == (
        f"cifar10 is prepared in {data_dir}/cifar10/3.0.2 already; --overwrite redoes "
        "it\n"
    )
    np.testing.assert_array_equal(stored_images(data_dir), prepared[:20])


def test_overwrite_replaces(prepared, source, data_dir):
    rng = np.random.default_rng(1)
    write_cifar10(source, rng)
    args = ["cifar10", f"--source={source}", f"--data_dir={data_dir}", "--overwrite"]
    assert prepare.main(args) == 0
    expected, _ = random_points(np.random.default_rng(1))
    np.testing.assert_array_equal(stored_images(data_dir), expected[:30])
    assert os.listdir(data_dir) == ["cifar10"]
    assert os.listdir(data_dir / "cifar10") == ["3.0.2"]


def test_overwrite_mends_damaged_data(prepared, rng, source, data_dir, capsys):
    (data_dir / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{")
    write_cifar10(source, rng)
    assert "cannot be read" in refusal(capsys, "cifar10", source, data_dir, 1)
    args = ["cifar10", f"--source={source}", f"--data_dir={data_dir}", "--overwrite"]
    assert prepare.main(args) == 0
    assert len(stored_images(data_dir)) == 30


def test_overwrite_by_a_damaged_archive_changes_nothing(
    prepared, rng, source, data_dir, capsys
):
    truncated(write_cifar10(source, rng))
    refusal(capsys, "cifar10", source, data_dir, 1, "--overwrite")
    np.testing.assert_array_equal(stored_images(data_dir), prepared[:20])


def test_data_of_tensorflow_is_not_replaced_unasked(
    prepared, rng, source, data_dir, capsys
):
    info = data_dir / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    write_cifar10(source, rng)
    message = refusal(capsys, "cifar10", source, data_dir, 1)
    assert "is stored as tfrecord, which needs TensorFlow; add --overwrite" in message


def test_unwritable_folder_is_named(rng, source, data_dir, capsys):
    write_cifar10(source, rng)
    data_dir.touch()
    message = refusal(capsys, "cifar10", source, data_dir, 1)
    assert message == f"{data_dir} is a file; data_dir must be a folder"
    refusal(capsys, "cifar10", source, data_dir / "below", 1)


def test_full_disk_is_reported(rng, source, data_dir, capsys, monkeypatch):
    import tensorflow_datasets

    def download_and_prepare(self, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        tensorflow_datasets.core.DatasetBuilder,
        "download_and_prepare",
        download_and_prepare,
    )
    write_cifar10(source, rng)
    message = refusal(capsys, "cifar10", source, data_dir, 1)
    assert message == "[Errno 28] No space left on device"
    assert not os.listdir(data_dir)


def test_interruption_leaves_nothing(rng, source, data_dir, capsys, monkeypatch):
    write_cifar10(source, rng)
    complete = prepare.READERS["cifar10"]

    def interrupted(path):
        original = complete(path)

        def examples():
            yield next(original.splits["test"])
            assert len(os.listdir(data_dir)) == 1
            raise KeyboardInterrupt

        return original._replace(splits=original.splits | {"test": examples()})

    monkeypatch.setitem(prepare.READERS, "cifar10", interrupted)
    message = refusal(capsys, "cifar10", source, data_dir, 130)
    assert message == "interrupted; nothing was changed"
    assert not os.listdir(data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_ended_process_leaves_nothing_that_looks_prepared(sent, rng, source, data_dir):
    images = write_mnist(source, rng)
    contents = images.read_bytes()
    images.unlink()
    os.mkfifo(images)  # nobody writes: the reader waits
    command = [sys.executable, "-m", "autodo_jax.data.prepare", "mnist"]
    command += [f"--source={source}", f"--data_dir={data_dir}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(data_dir.glob(".prepare-*/mnist/incomplete.*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(sent)
    _, message = process.communicate(timeout=60)
    if sent == signal.SIGTERM:
        assert process.returncode == 130
        assert message == "interrupted; nothing was changed\n"
        assert not os.listdir(data_dir)
    data = data_config("mnist", data_dir, mean=(0.5,))
    with pytest.raises(DataError, match="mnist is not prepared"):
        tfds.load(data, seed=0)
    images.unlink()
    images.write_bytes(contents)
    prepare.prepare("mnist", str(source), str(data_dir))
    assert len(tfds.load(data, seed=0).train.labels) == 20
