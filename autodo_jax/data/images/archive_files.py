"""Reads files of archives one at a time, in any order, thread and process."""

import contextlib
import dataclasses
import lzma
import pathlib
import posixpath
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from autodo_jax.data.images import archive_limits
from autodo_jax.errors import DataError

UNREADABLE = (
    OSError,
    EOFError,
    KeyError,  # from tarfile, for a link to an absent file
    RuntimeError,  # from zipfile, for encryption and unknown compression
    lzma.LZMAError,
    tarfile.TarError,
    UnicodeDecodeError,  # from zipfile, for names that are not what they are said to be
    zipfile.BadZipFile,
    zlib.error,
)
MAX_BYTES = 2**28  # of an encoded image; larger ones may be crafted to fill memory
_MAX_LINKS = 40  # followed in a row, as in Linux; links may form a loop


@contextlib.contextmanager
def reading(root: pathlib.Path) -> Iterator[None]:
    """Turns errors of a reader into a DataError of one line."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(
            f"{root} cannot be read: {error}", "make it readable", "get it again"
        ) from error


def contents(file: IO[bytes], name: str) -> bytes:
    """Returns the rest of a file.

    Raises:
      DataError: it has more than MAX_BYTES.
    """
    content = file.read(MAX_BYTES + 1)
    check_bytes(len(content), name)
    return content


def check_bytes(num_bytes: int, name: str) -> None:
    """Raises DataError if the contents of an image have more than MAX_BYTES."""
    if num_bytes > MAX_BYTES:
        raise DataError(
            f"the image {name} has more than {MAX_BYTES:,} bytes",
            "replace it",
            "move it elsewhere",
        )


class ZipReader:
    """Reads files of a .zip archive, which is opened once in each process."""

    def __init__(self, path: str):
        self._path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None

    def read(self, name: str) -> bytes:
        """Returns the contents of a file.

        Raises:
          DataError: it is too large.
          KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error: it is absent,
            encrypted or damaged.
        """
        # zipfile counts references without a lock; its reads have a lock.
        with self._lock:
            if self._archive is None:
                self._archive = zipfile.ZipFile(self._path)
            archive_limits.check_member(self._archive.getinfo(name))
            file = self._archive.open(name)
        try:
            return contents(file, name)
        finally:
            with self._lock:
                file.close()

    def __reduce__(self) -> tuple:
        return ZipReader, (self._path,)


# Offset and size of the contents of a file in bytes, or the reason for having none.
Extent = tuple[int, int] | str


@dataclasses.dataclass(frozen=True)
class TarReader:
    """Reads files of an uncompressed .tar archive."""

    path: str

    def read(self, extent: Extent) -> bytes:
        """Returns the contents of a file.

        Raises:
          DataError: they are too large.
          OSError: the archive cannot be read.
          tarfile.ReadError: there are none.
        """
        if isinstance(extent, str):
            raise tarfile.ReadError(extent)
        check_bytes(extent[1], f"at byte {extent[0]} of {self.path}")
        # A handle for each read is safe in any thread and process.
        with open(self.path, "rb") as file:
            file.seek(extent[0])
            return file.read(extent[1])

    def head(self, extent: Extent) -> bytes:
        """Returns the first bytes of a file; none of a file without contents."""
        return (
            b""
            if isinstance(extent, str)
            else self.read((extent[0], min(extent[1], 32)))
        )


def tar_extents(members: Sequence[tarfile.TarInfo]) -> list[Extent]:
    """Returns the extent of each member; links are followed as by tarfile.

    A hard link leads to the last member of that name before the link, a symbolic one to
    the last in the archive.

    Args:
      members: all members of an archive, in its order.
    """
    last: dict[str, tarfile.TarInfo] = {}
    hard: dict[int, tarfile.TarInfo | None] = {}  # header's offset -> target
    for member in members:
        if member.islnk():
            hard[member.offset] = last.get(posixpath.normpath(member.linkname))
        last[posixpath.normpath(member.name)] = member

    def target(link: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if link.islnk():
            return hard[link.offset]
        path = posixpath.join(posixpath.dirname(link.name), link.linkname)
        return last.get(posixpath.normpath(path))

    return [_extent(member, target) for member in members]


def _extent(
    member: tarfile.TarInfo,
    target: Callable[[tarfile.TarInfo], tarfile.TarInfo | None],
) -> Extent:
    file: tarfile.TarInfo | None = member
    for _ in range(_MAX_LINKS):
        if file is None or not (file.islnk() or file.issym()):
            break
        file = target(file)
    if file is None:
        return f"{member.name} is a link to {member.linkname!r}, which is not there"
    if not file.isreg():
        return f"{member.name} is not a file"
    if file.issparse():
        return f"{member.name} is stored as a sparse file, which cannot be streamed"
    return file.offset_data, file.size
