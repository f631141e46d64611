"""A user's own images: a folder or an archive with `train/<class>/*`.

`val/<class>/*` and `test/<class>/*` are used if they exist. All may lie below one
common folder, and images at any depth below the folder of their class. Archives are
read without unpacking them to disk.
"""

import collections
import contextlib
import os
import pathlib
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from autodo_jax.data import split
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.images import archive_files, decode, lazy
from autodo_jax.errors import DataError

FOLDERS = {"train": "train", "validation": "val", "test": "test"}  # part -> folder
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Members = dict[str, dict[str, list[str]]]  # part -> class -> paths of its images


def load(data: ml_collections.ConfigDict, seed: int) -> SourceSplits:
    """Returns the images of `data.data_dir`, each part in the order of its paths.

    `ids` are paths below `data_dir`; classes are numbered in the order of their names.
    Images that `max_train_points` and `max_test_points` leave out are not decoded. If
    `stream` is set, an image is decoded only when it is asked for.

    Args:
      data: config.data.
      seed: of the choice of points.

    Raises:
      DataError: a path that does not exist or is not an archive, a part without the
        classes of the others, an image that cannot be read.
    """
    if not data.data_dir:
        raise DataError("no images given", "pass <config.data.data_dir=PATH>")
    root = pathlib.Path(data.data_dir).expanduser()
    with archive_files.reading(root), _open(root, data.stream) as files:
        members = _members(files.entries, root)
        class_names = _class_names(members, root)
        parts = {
            part: _read(files, part, classes, class_names, data, seed)
            for part, classes in members.items()
        }
    return SourceSplits(**parts)


class Files(NamedTuple):
    """Contents of a folder or an archive, in the order that is fastest to read."""

    root: pathlib.Path
    entries: dict[str, Any]  # path, ending with a slash for folders -> its handle
    read: Callable[[Any], bytes]  # contents of a file, by its handle


@contextlib.contextmanager
def opened(root: pathlib.Path) -> Iterator[tuple[Members, Files]]:
    """Context that gives the images of a folder or an archive by part and class.

    Raises:
      DataError: as `load`.
    """
    with archive_files.reading(root), _open(root, stream=False) as files:
        yield _members(files.entries, root), files


def _open(root: pathlib.Path, stream: bool) -> contextlib.AbstractContextManager[Files]:
    """Opens `root`; if `stream`, its files can be read even after it is closed."""
    if root.is_dir():
        return contextlib.nullcontext(_folder(root))
    if not root.exists():
        raise DataError(f"{root} does not exist", "pass <config.data.data_dir=PATH>")
    # Tar first, since a .tar that ends with a .zip looks like a .zip.
    if tarfile.is_tarfile(root):
        return _tar(root, stream)
    if zipfile.is_zipfile(root):
        return _zip(root, stream)
    raise DataError(
        f"{root} is neither a folder nor a .zip or .tar archive (.tar.gz, .tar.xz, "
        ".tar.bz2), or is damaged"
    )


def _folder(root: pathlib.Path) -> Files:
    tops = [root] if os.path.isdir(root / "train") else sorted(root.glob("[!.]*/"))
    # Other folders are not walked, since they may be large or unreadable.
    tops = [top for top in tops if os.path.isdir(top / "train")]
    folders = [top / folder for top in tops for folder in FOLDERS.values()]
    paths = sorted(path for each in folders if each.is_dir() for path in _walk(each))
    entries = {
        _path(os.path.relpath(path, root), path.endswith("/")): path for path in paths
    }
    return Files(root, entries, _file_contents)


def _file_contents(path: str) -> bytes:
    # Reading from others, such as pipes, may never end.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a file")
    with open(path, "rb") as file:
        return archive_files.contents(file, path)


def _walk(root: pathlib.Path) -> Iterator[str]:
    """Yields the path of `root` and all below it; those of folders end with a slash."""
    for folder, folders, files in os.walk(str(root), followlinks=True, onerror=_raise):
        yield folder + "/"
        yield from (os.path.join(folder, name) for name in files)
        folders[:] = [name for name in folders if not _is_loop(folder, name)]


def _is_loop(folder: str, name: str) -> bool:
    """Returns True for a link to a folder that contains it: a walk would never end."""
    path = pathlib.Path(folder, name)
    return path.is_symlink() and any(map(path.samefile, path.parents))


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def _zip(root: pathlib.Path, stream: bool) -> Iterator[Files]:
    with zipfile.ZipFile(root) as archive:
        entries = {_path(name, name.endswith("/")): name for name in archive.namelist()}

        def read(name: str) -> bytes:
            with archive.open(name) as file:
                return archive_files.contents(file, name)

        yield Files(
            root, entries, archive_files.ZipReader(str(root)).read if stream else read
        )


@contextlib.contextmanager
def _tar(root: pathlib.Path, stream: bool) -> Iterator[Files]:
    def read(member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        if file is None:
            raise tarfile.ReadError(f"{member.name} is not a file")
        return archive_files.contents(file, member.name)

    if stream and not _is_plain_tar(root):
        raise DataError(
            f"{root} is compressed as a whole and cannot be streamed",
            "unpack it",
            "pass <config.data.stream=False>",
        )
    with tarfile.open(root) as archive:
        entries: dict[str, Any] = {}
        members = archive.getmembers()
        handles = archive_files.tar_extents(members) if stream else members
        for member, handle in zip(members, handles, strict=True):
            path = _path(member.name, member.isdir())
            # If a path occurs twice, the last one counts, at its place in the archive.
            entries.pop(path, None)
            entries[path] = handle
        _check_end(archive)
        yield Files(
            root, entries, archive_files.TarReader(str(root)).read if stream else read
        )


def _is_plain_tar(root: pathlib.Path) -> bool:
    with contextlib.suppress(tarfile.ReadError), tarfile.open(root, "r:"):
        return True
    return False


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuses an archive that tarfile has not read to its end.

    The end is a block of zeros, but tarfile also stops at any damaged header except the
    first. Reading on to the end of the file verifies the checksums of the compression.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the archive is damaged or ends early")
    while stream.read(1 << 20):
        pass


def _path(name: str, is_folder: bool) -> str:
    return posixpath.normpath(name) + "/" * is_folder


def _members(names: Iterable[str], root: pathlib.Path) -> Members:
    """Sorts the images into parts and classes; a class may have no images."""
    members: Members = collections.defaultdict(lambda: collections.defaultdict(list))
    prefix = _prefix(names, root)
    part_of = {folder: part for part, folder in FOLDERS.items()}
    for name in names:
        folder, *below = name.removeprefix(prefix).split("/")
        if not name.startswith(prefix) or folder not in part_of or _is_hidden(name):
            continue
        part = part_of[folder]
        is_image = name.lower().endswith(SUFFIXES)
        if is_image and len(below) == 1:
            raise DataError(
                f"{root / name} is in no class",
                f"images belong in {folder}/<class>/",
            )
        if is_image:
            _check_encoding(name, root)
            members[part][below[0]].append(name)
        elif len(below) > 1:  # A class without images is noted, to be refused later.
            members[part][below[0]]
    if "train" not in members:
        raise DataError(f"{root} has no train/<class>/ with images")
    return {part: members[part] for part in FOLDERS if part in members}


def _prefix(names: Iterable[str], root: pathlib.Path) -> str:
    """Returns the path of the folder that has train/: "" or with a final slash."""
    prefixes = set()
    for name in names:
        top = name.split("/")[0]
        if name.startswith("train/"):
            return ""
        if name.startswith(f"{top}/train/") and not _is_hidden(top):
            prefixes.add(f"{top}/")
    if len(prefixes) > 1:
        raise DataError(
            f"{root} has a train/ in each of {', '.join(sorted(prefixes))}",
            "pass one of them",
        )
    return prefixes.pop() if prefixes else ""


def _is_hidden(name: str) -> bool:
    return any(piece.startswith((".", "__MACOSX")) for piece in name.split("/"))


def _check_encoding(name: str, root: pathlib.Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{root} has a file whose name is not UTF-8, {name!a}", "rename it"
        ) from error


def _class_names(members: Members, root: pathlib.Path) -> tuple[str, ...]:
    for part, classes in members.items():
        for name in sorted(classes):
            if not classes[name]:
                where = f"{FOLDERS[part]}/{name}/"
                raise DataError(
                    f"{root} has no images in {where} ({', '.join(SUFFIXES)})",
                    "add some",
                    "move the folder elsewhere",
                )
    for part, classes in members.items():
        differing = sorted(classes.keys() ^ members["train"].keys())
        if differing:
            where = "train" if differing[0] in members["train"] else part
            raise DataError(
                f"{root} has the class {differing[0]!r} in {FOLDERS[where]}/ only",
                f"train/ and {FOLDERS[part]}/ must have the same classes",
            )
    if len(members["train"]) < 2:
        raise DataError(f"{root} has a single class in train/, expected two or more")
    return tuple(sorted(members["train"]))


def _read(
    files: Files,
    part: str,
    classes: dict[str, list[str]],
    class_names: tuple[str, ...],
    data: ml_collections.ConfigDict,
    seed: int,
) -> Dataset:
    """Returns a part, reduced to as many images as `data` allows."""
    label_of = {
        name: label
        for label, class_name in enumerate(class_names)
        for name in classes[class_name]
    }
    names = sorted(label_of)
    if part != "validation":
        labels = np.array([label_of[name] for name in names])
        chosen = split.subset(labels, data, f"max_{part}_points", seed=seed)
        names = [names[i] for i in chosen]
    return Dataset(
        images=_pixels(files, names, data),
        labels=np.array([label_of[name] for name in names], np.int32),
        ids=np.array(names),
        class_names=class_names,
    )


def _pixels(
    files: Files, names: list[str], data: ml_collections.ConfigDict
) -> np.ndarray | lazy.LazyImages:
    """Returns the images `names`, decoded now, or when asked for if streamed."""
    decoder = decode.decoder(data)
    if data.stream:
        handles = [files.entries[name] for name in names]
        source = lazy.Files(files.root, names, handles, files.read)
        return lazy.LazyImages.of(source, decoder)
    wanted = set(names)
    order = [name for name in files.entries if name in wanted]
    contents = ((name, files.read(files.entries[name])) for name in order)
    pixels = decode.decode_all(contents, len(order), decoder)
    # Sorting copies all pixels, so it is avoided if possible.
    return pixels if order == names else pixels[np.argsort(order)]
