"""A user's own images: a folder or an archive with `train/<class>/*`.

`val/<class>/*` and `test/<class>/*` are used where they are there; all may lie below
one common folder, and images at any depth below that of their class. Archives are read
as they are, nothing is unpacked to the disk.
"""

import collections
import os
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import ml_collections
import numpy as np

from autodo_jax.data import images, split
from autodo_jax.data.dataset import DataError, Dataset, Parts

PARTS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Members = dict[str, dict[str, list[str]]]  # part -> class -> paths of its images


def load(data: ml_collections.ConfigDict, seed: int) -> Parts:
    """Returns the images of `data.data_dir`, each part in the order of its paths.

    `ids` are paths below `data_dir`; classes are numbered in the order of their names.
    Images of the parts that `max_train_points` and `max_test_points` leave out are not
    decoded.

    Args:
      data: config.data.
      seed: of the choice of these points.

    Raises:
      DataError: a path that does not exist or is no archive, a part without its
        classes, an image that cannot be read.
    """
    if not data.data_dir:
        raise DataError("no images given; pass --config.data.data_dir=PATH")
    root = pathlib.Path(data.data_dir).expanduser()
    try:
        files = _open(root)
        members = _members(files.names(), root)
        class_names = _class_names(members, root)
        parts = {
            part: _read(files, part, classes, class_names, data, seed)
            for part, classes in members.items()
        }
    except (
        OSError,
        EOFError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{root} cannot be read: {error}") from error
    return Parts(parts["train"], parts.get("val"), parts.get("test"))


class _Files(Protocol):
    def names(self) -> list[str]:
        """Paths of all files and, with a slash behind, of all folders."""

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yields names with contents; archives in their own order."""


class _Folder:
    def __init__(self, root: pathlib.Path):
        self._root = root

    def names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(
            self._root, followlinks=True, onerror=_raise
        ):
            below = pathlib.Path(folder).relative_to(self._root)
            found += [(below / name).as_posix() for name in files]
            found += [(below / name).as_posix() + "/" for name in folders]
        return found

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            yield name, (self._root / name).read_bytes()


class _Zip:
    def __init__(self, root: pathlib.Path):
        self._archive = zipfile.ZipFile(root)

    def names(self) -> list[str]:
        return self._archive.namelist()

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            yield name, self._archive.read(name)


class _Tar:
    def __init__(self, root: pathlib.Path):
        self._root = root

    def names(self) -> list[str]:
        with tarfile.open(self._root, "r|*") as archive:
            return [
                member.name + "/" * member.isdir()
                for member in archive
                if member.isfile() or member.isdir()
            ]

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        wanted = set(names)
        # A compressed archive can only be read from its start to its end.
        with tarfile.open(self._root, "r|*") as archive:
            for member in archive:
                if member.name in wanted and member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None  # as it is a file
                    yield member.name, content.read()


def _open(root: pathlib.Path) -> _Files:
    if root.is_dir():
        return _Folder(root)
    if not root.exists():
        raise DataError(f"{root} does not exist; pass --config.data.data_dir=PATH")
    if zipfile.is_zipfile(root):
        return _Zip(root)
    if tarfile.is_tarfile(root):
        return _Tar(root)
    raise DataError(
        f"{root} is neither a folder nor a .zip or .tar archive (.tar.gz, .tar.xz)"
    )


def _raise(error: OSError) -> None:
    raise error


def _members(names: Sequence[str], root: pathlib.Path) -> Members:
    """Sorts the images into parts and classes; a class may be without images."""
    members: Members = collections.defaultdict(lambda: collections.defaultdict(list))
    top = _top(names)
    for name in names:
        path = posixpath.relpath(posixpath.normpath(name), top)
        part, *below = path.split("/")
        hidden = any(piece.startswith((".", "__MACOSX")) for piece in path.split("/"))
        if hidden or not below or part not in PARTS:
            continue
        is_image = path.lower().endswith(SUFFIXES) and not name.endswith("/")
        if is_image and len(below) == 1:
            raise DataError(
                f"{root / name} is in no class; images belong in {part}/<class>/"
            )
        if is_image:
            members[part][below[0]].append(name)
        elif name.endswith("/"):
            members[part][below[0]]  # Makes the class, which may stay empty.
    if "train" not in members:
        raise DataError(f"{root} has no train/<class>/ with images")
    return {part: members[part] for part in PARTS if part in members}


def _top(names: Sequence[str]) -> str:
    """The folder that train/ is in: the archive's own, or the only one in it."""
    paths = [posixpath.normpath(name).split("/") for name in names]
    tops = {path[0] for path in paths if not path[0].startswith((".", "__MACOSX"))}
    return "." if len(tops) != 1 or tops == {"train"} else tops.pop()


def _class_names(members: Members, root: pathlib.Path) -> tuple[str, ...]:
    for part, classes in members.items():
        for name in sorted(classes):
            if not classes[name]:
                raise DataError(
                    f"{root} has no images in {part}/{name}/ ({', '.join(SUFFIXES)}); "
                    "add some or remove the folder"
                )
    for part, classes in members.items():
        differing = sorted(classes.keys() ^ members["train"].keys())
        if differing:
            where = "train" if differing[0] in members["train"] else part
            raise DataError(
                f"{root} has the class {differing[0]!r} in {where}/ only; train/ and "
                f"{part}/ must have the same classes"
            )
    if len(members["train"]) < 2:
        raise DataError(f"{root} has a single class in train/, expected two or more")
    return tuple(sorted(members["train"]))


def _read(
    files: _Files,
    part: str,
    classes: dict[str, list[str]],
    class_names: tuple[str, ...],
    data: ml_collections.ConfigDict,
    seed: int,
) -> Dataset:
    """Decodes a part, or the choice of its images that `data` limits it to."""
    label_of = {
        name: label
        for label, class_name in enumerate(class_names)
        for name in classes[class_name]
    }
    names = sorted(label_of)
    if part != "val":
        labels = np.array([label_of[name] for name in names])
        chosen = split.subset(labels, data, f"max_{part}_points", seed=seed)
        names = [names[i] for i in chosen]
    order: list[str] = []

    def contents() -> Iterator[tuple[str, bytes]]:
        for name, content in files.read(names):
            order.append(name)
            yield name, content

    pixels = images.decode_all(
        contents(),
        len(names),
        channels=len(data.mean),
        size=tuple(data.image_size),
        resize=data.resize,
    )
    ranks = np.argsort(order)
    return Dataset(
        images=pixels[ranks],
        labels=np.array([label_of[order[i]] for i in ranks], np.int32),
        ids=np.array([posixpath.normpath(order[i]) for i in ranks]),
        class_names=class_names,
    )
