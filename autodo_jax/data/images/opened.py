"""The files of a folder or an archive, which is read without unpacking it."""

import contextlib
import os
import pathlib
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

from autodo_jax.data.images import archive_files, archive_limits
from autodo_jax.disk import regular
from autodo_jax.errors import DataError

_HEAD = 32  # bytes that say what a file is


class Files(NamedTuple):
    """Contents of a folder or an archive, in the order that is fastest to read."""

    root: pathlib.Path
    entries: dict[str, Any]  # path, ending with a slash for folders -> its handle
    read: Callable[[Any], bytes]  # contents of a file, by its handle
    head: Callable[[Any], bytes]  # its first bytes

    def pick(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | DataError]]:
        """Yields files with their contents, in the order that is fastest to read.

        Or with the error of reading one; that of an archive as a whole is raised.
        """
        wanted = set(names)
        for name, handle in self.entries.items():
            if name in wanted:
                yield name, self._contents(name, handle)

    def _contents(self, name: str, handle: Any) -> bytes | DataError:
        try:
            return self.read(handle)
        except DataError as error:
            return error
        except OSError as error:
            if not self.root.is_dir():
                raise
            return DataError(
                f"the image {name} cannot be read: {error}",
                "replace it",
                "move it elsewhere",
            )


@contextlib.contextmanager
def opened(
    root: pathlib.Path,
    *,
    stream: bool = False,
    below: Callable[[pathlib.Path], Iterable[pathlib.Path]] = lambda root: [root],
) -> Iterator[Files]:
    """Context that gives the files of a folder or an archive.

    Args:
      root: folder, or .zip or .tar archive.
      stream: files can be read after the context has ended.
      below: folder -> the folders and files in it that are listed.

    Raises:
      DataError: it does not exist, is neither of them, or cannot be read.
    """
    with archive_files.reading(root), _open(root, stream, below) as files:
        yield files


def is_hidden(name: str) -> bool:
    """True for files that systems leave beside others, as .DS_Store and __MACOSX."""
    return any(piece.startswith((".", "__MACOSX")) for piece in name.split("/"))


def check_encoding(name: str, root: pathlib.Path) -> None:
    """Raises DataError where a name cannot be written down."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{root} has a file whose name is not UTF-8, {name!a}", "rename it"
        ) from error


def _open(
    root: pathlib.Path, stream: bool, below: Callable
) -> contextlib.AbstractContextManager[Files]:
    if root.is_dir():
        return contextlib.nullcontext(_folder(root, below))
    if not root.exists():
        raise DataError(f"{root} does not exist", "pass <config.data.data_dir=PATH>")
    if not root.is_file():
        raise DataError(f"{root} is neither a folder nor a file")
    # Tar first, since a .tar that ends with a .zip looks like a .zip.
    if tarfile.is_tarfile(root):
        return _tar(root, stream)
    if zipfile.is_zipfile(root):
        return _zip(root, stream)
    raise DataError(
        f"{root} is neither a folder nor a .zip or .tar archive (.tar.gz, .tar.xz, "
        ".tar.bz2), or is damaged"
    )


def _folder(root: pathlib.Path, below: Callable) -> Files:
    paths = sorted(path for each in below(root) for path in _walk(each))
    entries = {
        _path(os.path.relpath(path, root), path.endswith("/")): path for path in paths
    }
    return Files(root, entries, _file_contents, _file_head)


def _file_contents(path: str) -> bytes:
    with regular.open_file(path) as file:
        return archive_files.contents(file, path)


def _file_head(path: str) -> bytes:
    with regular.open_file(path) as file:
        return file.read(_HEAD)


def _walk(root: pathlib.Path) -> Iterator[str]:
    """Yields the path of `root` and all below it; those of folders end with a slash."""
    if not root.is_dir():
        yield str(root)
        return
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
    archive_limits.check_zip(root)
    with zipfile.ZipFile(root) as archive:
        entries = {_stored_path(name): name for name in archive.namelist()}

        def read(name: str) -> bytes:
            archive_limits.check_member(archive.getinfo(name))
            with archive.open(name) as file:
                return archive_files.contents(file, name)

        def head(name: str) -> bytes:
            with archive.open(name) as file:
                return file.read(_HEAD)

        later = archive_files.ZipReader(str(root)).read
        yield Files(root, entries, later if stream else read, head)


@contextlib.contextmanager
def _tar(root: pathlib.Path, stream: bool) -> Iterator[Files]:
    def opened_member(member: tarfile.TarInfo) -> IO[bytes]:
        file = archive.extractfile(member)
        if file is None:
            raise tarfile.ReadError(f"{member.name} is not a file")
        return file

    def read(member: tarfile.TarInfo) -> bytes:
        return archive_files.contents(opened_member(member), member.name)

    if stream and not _is_plain_tar(root):
        raise DataError(
            f"{root} is compressed as a whole and cannot be streamed",
            "unpack it",
            "pass <config.data.stream=False>",
        )
    with tarfile.open(root) as archive:
        entries: dict[str, Any] = {}
        members = archive_limits.members(archive, root)
        handles = archive_files.tar_extents(members) if stream else members
        for member, handle in zip(members, handles, strict=True):
            path = _stored_path(member.name + "/" * member.isdir())
            # If a path occurs twice, the last one counts, at its place in the archive.
            entries.pop(path, None)
            entries[path] = handle
        _check_end(archive)
        later = archive_files.TarReader(str(root))
        if stream:
            yield Files(root, entries, later.read, later.head)
        else:
            yield Files(root, entries, read, lambda m: opened_member(m).read(_HEAD))


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


def _stored_path(name: str) -> str:
    """Returns a path of an archive; some tools of Windows write backslashes."""
    name = name.replace("\\", "/")
    return _path(name, name.endswith("/"))


def _path(name: str, is_folder: bool) -> str:
    return posixpath.normpath(name) + "/" * is_folder
