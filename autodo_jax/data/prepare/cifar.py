"""The original archives of CIFAR-10 and CIFAR-100, in their Python or binary form."""

import gzip
import io
import itertools
import pathlib
import pickle
import tarfile
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from autodo_jax.data.prepare.originals import (
    Example,
    Original,
    check,
    extract,
    find,
    reading,
)

# (field -> labels [N], pixels uint8 [N, 3072]: the red, green and blue plane by rows)
_Batch = tuple[dict[str, np.ndarray], np.ndarray]


class _Label(NamedTuple):
    """A label, and its place in the Python and the binary form."""

    field: str  # TFDS's name of it
    num_classes: int
    key: str  # Python: key of the labels in a batch
    names_key: str  # Python: key of the class names
    names_file: str  # binary: file of the class names


class _Form(NamedTuple):
    """Names of an archive and of its contents."""

    stem: str  # start of the archive's name
    folders: tuple[str, str]  # of the unpacked Python and binary archives
    batches: dict[str, tuple[str, ...]]  # files of each split; binary: with ".bin"
    names_file: str  # Python: file of the class names
    labels: tuple[_Label, ...]  # binary: in the order of the bytes before an image


_FORMS = {
    "cifar10": _Form(
        stem="cifar-10",
        folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
        batches={
            "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
            "test": ("test_batch",),
        },
        names_file="batches.meta",
        labels=(_Label("label", 10, "labels", "label_names", "batches.meta.txt"),),
    ),
    "cifar100": _Form(
        stem="cifar-100",
        folders=("cifar-100-python", "cifar-100-binary"),
        batches={"train": ("train",), "test": ("test",)},
        names_file="meta",
        labels=tuple(
            _Label(
                field,
                num_classes,
                key=f"{kind}_labels",
                names_key=f"{kind}_label_names",
                names_file=f"{kind}_label_names.txt",
            )
            for field, num_classes, kind in (
                ("coarse_label", 20, "coarse"),
                ("label", 100, "fine"),
            )
        ),
    ),
}


def cifar(name: str, source: pathlib.Path) -> Original:
    """Reads an archive or its unpacked folder; the pixels are held in memory.

    Args:
      name: cifar10 or cifar100.
      source: the archive, its folder, or the folder that holds one of them.

    Raises:
      AbsentError: neither is there.
      DataError: it is damaged.
    """
    form = _FORMS[name]
    path = source
    if source.is_dir() and source.name not in form.folders:
        archives = (f"{form.stem}-python.tar.gz", f"{form.stem}-binary.tar.gz")
        path = find(source, *archives, *form.folders)
    python_files = [form.names_file, *sum(form.batches.values(), ())]
    binary_files = [label.names_file for label in form.labels]
    binary_files += [f"{file}.bin" for file in sum(form.batches.values(), ())]
    with reading(path):
        files = _contents(path, [*python_files, *binary_files])
        is_python = form.names_file in files
        expected = python_files if is_python else binary_files
        missing = [file for file in expected if file not in files]
        check(not missing, path, f"it lacks {', '.join(missing)}")
        names, batches = (_parse_python if is_python else _parse_binary)(files, form)
        for label in form.labels:
            count = len(names[label.field])
            matches = count == label.num_classes
            check(matches, path, f"it has {count} names of {label.field}")
        for batch in itertools.chain(*batches.values()):
            _check_batch(batch, form, path)
    splits = {split: _examples(split, batches[split]) for split in batches}
    return Original(splits, names)


def _contents(path: pathlib.Path, names: Collection[str]) -> dict[str, bytes]:
    """Returns name -> contents of those `names` that a folder or a tar archive has."""
    if path.is_dir():
        files = [path / name for name in names if (path / name).exists()]
        return {file.name: file.read_bytes() for file in files}
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)  # verifies the checksum at the end, unlike tarfile
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(pathlib.PurePosixPath(member.name).name, member) for member in tar]
        return {name: extract(tar, member) for name, member in members if name in names}


class _Unpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and refuses anything else.

    A pickle can call any function, so one from the internet may run any code.
    """

    _reconstruct = np.empty(0).__reduce__()[0]

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": self._reconstruct,
        }
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls {module}.{name}") from None


def _parse_python(
    files: dict[str, bytes], form: _Form
) -> tuple[dict[str, list[str]], dict[str, list[_Batch]]]:
    # Strings of Python 2 hold bytes or text; latin1 maps bytes to characters 1:1.
    contents = {
        file: _Unpickler(io.BytesIO(data), encoding="latin1").load()
        for file, data in files.items()
    }
    names = {
        label.field: contents[form.names_file][label.names_key] for label in form.labels
    }

    def batch(file: str) -> _Batch:
        labels = {
            label.field: np.asarray(contents[file][label.key]) for label in form.labels
        }
        return labels, contents[file]["data"]

    splits = {split: [batch(f) for f in files] for split, files in form.batches.items()}
    return names, splits


def _parse_binary(
    files: dict[str, bytes], form: _Form
) -> tuple[dict[str, list[str]], dict[str, list[_Batch]]]:
    names = {
        label.field: files[label.names_file].decode().split() for label in form.labels
    }
    num_labels = len(form.labels)

    def batch(file: str) -> _Batch:
        rows = np.frombuffer(files[f"{file}.bin"], np.uint8)
        rows = rows.reshape(-1, num_labels + 3072)
        labels = {label.field: rows[:, i] for i, label in enumerate(form.labels)}
        return labels, rows[:, num_labels:]

    splits = {split: [batch(f) for f in files] for split, files in form.batches.items()}
    return names, splits


def _check_batch(batch: _Batch, form: _Form, path: pathlib.Path) -> None:
    labels, pixels = batch
    check(pixels.dtype == np.uint8, path, f"it has pixels of {pixels.dtype}")
    check(len(pixels) > 0, path, "it has a batch without images")
    check(pixels.shape[1:] == (3072,), path, f"it has images of {pixels.shape[1:]}")
    for label in form.labels:
        values = labels[label.field]
        in_range = (values >= 0) & (values < label.num_classes)
        valid = values.shape == pixels.shape[:1] and bool(in_range.all())
        check(valid, path, f"{label.field} is not in 0..{label.num_classes - 1}")


def _examples(split: str, batches: list[_Batch]) -> Iterator[Example]:
    index = 0
    for labels, pixels in batches:
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for i, image in enumerate(images):
            fields = {field: int(values[i]) for field, values in labels.items()}
            name = f"{split}_{index:05d}"
            yield index, {"id": name, "image": Image.fromarray(image), **fields}
            index += 1
