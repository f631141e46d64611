"""Small archives in the layout of the originals, and a data set prepared from one."""

import gzip
import io
import pathlib
import pickle
import struct
import tarfile
import tempfile
from typing import Any, ClassVar

import numpy as np
import scipy.io

from autodo_jax.data.prepare import __main__ as prepare

CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
FINE = [f"fine_{i:02d}" for i in range(100)]
COARSE = [f"coarse_{i:02d}" for i in range(20)]
_Pickler: Any = pickle._Pickler


class _Python2Pickler(_Pickler):
    """Writes str and bytes as Python 2 wrote its str, as in the published pickles."""

    def _save_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch: ClassVar = _Pickler.dispatch | {str: _save_string, bytes: _save_string}


def python2_pickle(value):
    """Returns a pickle as by Python 2 and the numpy of its time."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def tar_bytes(files, mode="w:gz"):
    """Returns a tar archive of {name: contents}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
    return file.getvalue()


def cifar_pixels(images):
    """Returns [N, 3072] of [N, 32, 32, 3]: the rows of the red, green, blue plane."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def _cifar10_batches(num_points, num_test):
    """Yields (file name, its points): five train batches, then the test batch."""
    train, test = np.split(np.arange(num_points), [num_points - num_test])
    for i, part in enumerate(np.array_split(train, 5), 1):
        yield f"data_batch_{i}", part
    yield "test_batch", test


def cifar10_files(form, images, labels, num_test):
    """Returns the files of cifar-10-{form}.tar.gz, test points last in `images`."""
    if form == "binary":
        rows = np.column_stack([labels, cifar_pixels(images)]).astype(np.uint8)
        files = {"batches.meta.txt": ("\n".join(CIFAR10_NAMES) + "\n\n").encode()}
        for name, part in _cifar10_batches(len(labels), num_test):
            files[f"{name}.bin"] = rows[part].tobytes()
        return {f"cifar-10-batches-bin/{name}": files[name] for name in files}
    files = {"batches.meta": python2_pickle({"label_names": list(CIFAR10_NAMES)})}
    for name, part in _cifar10_batches(len(labels), num_test):
        files[name] = python2_pickle(
            {"data": cifar_pixels(images[part]), "labels": labels[part].tolist()}
        )
    return {f"cifar-10-batches-py/{name}": files[name] for name in files}


def cifar100_files(form, images, fine, coarse, num_test):
    """Returns the files of cifar-100-{form}.tar.gz, test points last in `images`."""
    parts = {"train": slice(None, -num_test), "test": slice(-num_test, None)}
    names = {"fine_label_names": FINE, "coarse_label_names": COARSE}
    if form == "binary":
        rows = np.column_stack([coarse, fine, cifar_pixels(images)]).astype(np.uint8)
        files = {f"{key}.txt": "\n".join(names[key]).encode() for key in names}
        files |= {f"{name}.bin": rows[parts[name]].tobytes() for name in parts}
        return {f"cifar-100-binary/{name}": files[name] for name in files}
    files = {"meta": python2_pickle(names)}
    for name, part in parts.items():
        files[name] = python2_pickle(
            {
                "data": cifar_pixels(images[part]),
                "fine_labels": fine[part].tolist(),
                "coarse_labels": coarse[part].tolist(),
            }
        )
    return {f"cifar-100-python/{name}": files[name] for name in files}


def write_mat(path, images, labels):
    """Writes a file of SVHN; `labels` 1..10."""
    contents = {"X": np.moveaxis(images, 0, -1), "y": labels[:, None].astype(np.uint8)}
    scipy.io.savemat(path, contents, do_compression=True)


def idx(array):
    """Bytes of an idx file, as MNIST's page describes it."""
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(source, points, compressed):
    """Writes MNIST's files; `points`: {"train" or "t10k": (images, labels)}."""
    for prefix, (images, labels) in points.items():
        files = {"images-idx3": idx(images), "labels-idx1": idx(labels)}
        for name, data in files.items():
            path = source / f"{prefix}-{name}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(data) if compressed else data)


def write_imagenet(source, train, validation):
    """Writes a tar of tars of {class: {name: contents}}, and a tar of {name: ...}."""
    tars = {f"{wnid}.tar": tar_bytes(files, "w") for wnid, files in train.items()}
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(tars, "w"))
    (source / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(validation, "w"))


def prepare_tiny_cifar10(data_dir, *, num_train=200, num_test=50, seed=0):
    """Prepares random images below `data_dir`, through the program's own code.

    Labels 0..9 take turns; each class has a mean colour of its own, so that a network
    can learn something.

    Returns:
      images uint8 [num_train + num_test, 32, 32, 3] and labels, train before test, in
      the order of their ids train_00000, ..., test_00000, ...
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(num_train + num_test) % 10
    colors = rng.integers(0, 128, (10, 1, 1, 3))
    noise = rng.integers(0, 128, (len(labels), 32, 32, 3))
    images = (colors[labels] + noise).astype(np.uint8)
    with tempfile.TemporaryDirectory() as source:
        archive = pathlib.Path(source) / "cifar-10-python.tar.gz"
        archive.write_bytes(
            tar_bytes(cifar10_files("python", images, labels, num_test))
        )
        prepare.prepare("cifar10", source, str(data_dir))
    return images, labels
