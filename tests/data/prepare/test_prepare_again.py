"""Preparing again, and preparations cut short."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from autodo_jax.data.prepare import __main__ as prepare
from autodo_jax.data.sources import tfds
from autodo_jax.errors import DataError
from tests.data import tiny
from tests.data.prepare.test_prepare_refusals import (
    random_points,
    refusal,
    truncated,
    write_cifar10,
    write_mnist,
)
from tests.data.sources.test_tfds import data_config, number


@pytest.fixture
def prepared(source, data_dir):
    """Twenty points, prepared; returns their pixels."""
    images, _ = tiny.prepare_tiny_cifar10(data_dir, num_train=20, num_test=20)
    return images


def stored_images(data_dir):
    train = tfds.load(data_config("cifar10", data_dir), seed=0).train
    return train.images[np.argsort(number(train.ids))]


def test_prepared_data_is_kept(prepared, source, data_dir, capsys):
    write_cifar10(source)
    args = ["cifar10", f"--source={source}", f"--data_dir={data_dir}"]
    assert prepare.main(args) == 0
    assert capsys.readouterr().out == (
        f"cifar10 is already prepared in {data_dir}/cifar10/3.0.2; --overwrite "
        "prepares it again\n"
    )
    np.testing.assert_array_equal(stored_images(data_dir), prepared[:20])


def test_overwrite_replaces(prepared, source, data_dir):
    write_cifar10(source)
    args = ["cifar10", f"--source={source}", f"--data_dir={data_dir}", "--overwrite"]
    assert prepare.main(args) == 0
    expected, _ = random_points()
    np.testing.assert_array_equal(stored_images(data_dir), expected[:30])
    assert os.listdir(data_dir) == ["cifar10"]
    assert os.listdir(data_dir / "cifar10") == ["3.0.2"]


def test_overwrite_mends_damaged_data(prepared, source, data_dir, capsys):
    (data_dir / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{")
    write_cifar10(source)
    assert "cannot be read" in refusal(capsys, "cifar10", source, data_dir, 1)
    args = ["cifar10", f"--source={source}", f"--data_dir={data_dir}", "--overwrite"]
    assert prepare.main(args) == 0
    assert len(stored_images(data_dir)) == 30


def test_overwrite_by_a_damaged_archive_changes_nothing(
    prepared, source, data_dir, capsys
):
    truncated(write_cifar10(source))
    refusal(capsys, "cifar10", source, data_dir, 1, "--overwrite")
    np.testing.assert_array_equal(stored_images(data_dir), prepared[:20])


def test_data_of_tensorflow_is_not_replaced_unasked(prepared, source, data_dir, capsys):
    info = data_dir / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    write_cifar10(source)
    message = refusal(capsys, "cifar10", source, data_dir, 1)
    assert "is stored as tfrecord, which needs TensorFlow; add --overwrite" in message


def test_unwritable_folder_is_named(source, data_dir, capsys):
    write_cifar10(source)
    data_dir.touch()
    message = refusal(capsys, "cifar10", source, data_dir, 1)
    assert message == f"{data_dir} is a file, expected a folder; pass another data_dir"
    refusal(capsys, "cifar10", source, data_dir / "below", 1)


def test_full_disk_is_reported(source, data_dir, capsys, monkeypatch):
    import tensorflow_datasets

    def download_and_prepare(self, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        tensorflow_datasets.core.DatasetBuilder,
        "download_and_prepare",
        download_and_prepare,
    )
    write_cifar10(source)
    message = refusal(capsys, "cifar10", source, data_dir, 1)
    assert message == "[Errno 28] No space left on device"
    assert not os.listdir(data_dir)


def test_interruption_leaves_nothing(source, data_dir, capsys, monkeypatch):
    write_cifar10(source)
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
def test_ended_process_leaves_nothing_that_looks_prepared(sent, source, data_dir):
    images = write_mnist(source)
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
    time.sleep(2)  # Until it waits for the images, where a signal is an exception.
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
