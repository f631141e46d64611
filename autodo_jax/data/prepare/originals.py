"""The original archives of public data sets, as the examples that TFDS stores.

Keys and fields of the examples are those of TFDS's own builders, so that data sets
prepared from them have the same points in the same order. Nothing is unpacked to disk.
"""

import contextlib
import gzip
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.io
from PIL import Image

from autodo_jax.errors import AbsentError, DataError

Example = tuple[int | str, dict[str, Any]]  # (key, fields)
T = TypeVar("T")


class Original(NamedTuple):
    """A data set as published."""

    splits: dict[str, Iterator[Example]]
    class_names: dict[str, list[str]]  # of label fields for which TFDS has no names


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Turns errors of a reader into a DataError of one line."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} is damaged: {reason}", "get it again") from error


def check(holds: bool, path: pathlib.Path, problem: str) -> None:
    """Raises DataError with `problem` unless the condition `holds`."""
    if not holds:
        raise DataError(f"{path} is damaged: {problem}", "get it again")


def find(source: pathlib.Path, *names: str) -> pathlib.Path:
    """Returns the first of `names` that exists in a folder, or next to a file.

    Raises:
      AbsentError: none of them exists.
    """
    folder = source if source.is_dir() else source.parent
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise AbsentError(
        f"{folder} holds none of {', '.join(names)}", "put one there", "set <source>"
    )


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Returns the contents of a file in a tar archive."""
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} is not a file")
    return file.read()


def mnist(source: pathlib.Path) -> Original:
    """MNIST's four idx files, compressed or not."""

    def locate(name: str) -> pathlib.Path:
        return find(source, f"{name}.gz", name)

    def split(prefix: str) -> Iterator[Example]:
        images = locate(f"{prefix}-images-idx3-ubyte")
        return _mnist_examples(images, locate(f"{prefix}-labels-idx1-ubyte"))

    return Original({"train": split("train"), "test": split("t10k")}, {})


def _mnist_examples(
    images_path: pathlib.Path, labels_path: pathlib.Path
) -> Iterator[Example]:
    images, labels = _idx(images_path, 3), _idx(labels_path, 1)
    _check_sizes(images, (28, 28), images_path)
    _check_count(images, labels, labels_path)
    check(max(labels) < 10, labels_path, f"it has the label {max(labels)}")
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield i, {"image": Image.fromarray(image), "label": int(label)}


def _check_sizes(
    images: np.ndarray, expected: tuple[int, ...], path: pathlib.Path
) -> None:
    size = "x".join(map(str, images.shape[1:]))
    check(images.shape[1:] == expected, path, f"it has images of {size}")


def _check_count(images: np.ndarray, labels: np.ndarray, path: pathlib.Path) -> None:
    problem = f"it has {len(labels)} labels for {len(images)} images"
    check(0 < len(images) == len(labels), path, problem)


def _idx(path: pathlib.Path, num_axes: int) -> np.ndarray:
    """Reads an array of bytes: the axes' lengths follow a magic number."""
    with reading(path):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        is_idx = data[:4] == bytes((0, 0, 8, num_axes))
        check(is_idx, path, f"it is not an idx file with {num_axes} axes")
        shape = np.frombuffer(data, ">u4", num_axes, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def svhn(source: pathlib.Path) -> Original:
    """Cropped street view house numbers in MATLAB files; `extra` may be absent."""
    paths = {split: find(source, f"{split}_32x32.mat") for split in ("train", "test")}
    with contextlib.suppress(AbsentError):
        paths["extra"] = find(source, "extra_32x32.mat")
    splits = {split: _svhn_examples(split, path) for split, path in paths.items()}
    return Original(splits, {})


def _svhn_examples(split: str, path: pathlib.Path) -> Iterator[Example]:
    with reading(path):
        contents = scipy.io.loadmat(path, variable_names=["X", "y"])
        images, labels = np.moveaxis(contents["X"], -1, 0), contents["y"].ravel()
    _check_sizes(images, (32, 32, 3), path)
    _check_count(images, labels, path)
    check(images.dtype == np.uint8, path, f"it has pixels of {images.dtype}")
    check(set(labels) <= set(range(1, 11)), path, "it has labels not in 1..10")
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        fields = {"id": f"{split}_{i:06d}", "image": Image.fromarray(image)}
        yield i, fields | {"label": int(label) % 10}  # 10 stands for the digit 0


def imagenet(source: pathlib.Path) -> Original:
    """ILSVRC2012's tar files, or folders `train` and `val`; images stay encoded."""
    train = find(source, "ILSVRC2012_img_train.tar", "train")
    validation = find(source, "ILSVRC2012_img_val.tar", "val")
    splits = {
        "train": _imagenet_train(train),
        "validation": _imagenet_validation(validation),
    }
    return Original(splits, {})


def _imagenet_list(name: str) -> list[str]:
    import tensorflow_datasets

    path = tensorflow_datasets.core.tfds_path(f"datasets/imagenet2012/{name}")
    return path.read_text().split()


def _imagenet_train(path: pathlib.Path) -> Iterator[Example]:
    classes = set(_imagenet_list("labels.txt"))
    with reading(path):
        for label, name, image in _checked(_classes(path), path):
            check(label in classes, path, f"{label} is not a class of ImageNet")
            yield name, {"file_name": name, "image": image, "label": label}


def _imagenet_validation(path: pathlib.Path) -> Iterator[Example]:
    labels = _imagenet_list("validation_labels.txt")
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, len(labels) + 1)]
    label_of = dict(zip(names, labels, strict=True))
    with reading(path):
        for name, image in _checked(_images(path), path):
            check(name in label_of, path, f"{name} is not a validation image")
            yield name, {"file_name": name, "image": image, "label": label_of[name]}


def _checked(images: Iterator[T], path: pathlib.Path) -> Iterator[T]:
    """Yields `images`, and refuses an archive without any."""
    is_empty = True
    for image in images:
        is_empty = False
        yield image
    check(not is_empty, path, "it holds no images")


def _classes(path: pathlib.Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields (class, file name, contents) of a folder of folders or a tar of tars."""
    if path.is_dir():
        for folder in sorted(path.iterdir()):
            for name, image in _images(folder):
                yield folder.name, name, image
        return
    with tarfile.open(path) as outer:
        for class_tar in outer:
            with tarfile.open(fileobj=outer.extractfile(class_tar)) as inner:
                for member in inner:
                    yield class_tar.name[:-4], member.name, extract(inner, member)


def _images(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Yields (file name, contents) of a folder, at any depth, or of a tar file."""
    if path.is_dir():
        for file in sorted(path.rglob("*.JPEG")):
            yield file.name, file.read_bytes()
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile():
                yield pathlib.PurePosixPath(member.name).name, extract(tar, member)
