"""Images that stay on the disk until they are asked for (`config.data.stream`).

Pixels are those of the resident array: the same files go through the same decoder.
"""

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
from typing import Any, NoReturn, Protocol, overload

import numpy as np

from autodo_jax.data import images
from autodo_jax.data.dataset import DataError

_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,  # of tarfile, on a link to what the archive lacks
    RuntimeError,  # of zipfile, on encryption and unknown compression
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
_MAX_LINKS = 40  # one after the other, as in Linux: they may lead in a circle


class Source(Protocol):
    """Encoded images in a fixed order; picklable, and safe for several threads."""

    def __len__(self) -> int:
        """Returns N."""

    def read(self, row: int) -> tuple[str, bytes]:
        """Returns the name, for messages, and the contents of image `row` in 0..N-1.

        Raises:
          DataError: it cannot be read.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
    """uint8 images [N, H, W, C] that are read and decoded when they are asked for.

    Immutable; safe for several threads; picklable, for worker processes. An image that
    cannot be decoded, or has another size than the first, raises DataError when it is
    asked for.
    """

    source: Source
    decoder: images.Decoder
    rows: np.ndarray  # int [N], positions in `source`
    image_shape: tuple[int, int, int]  # (H, W, C)
    first: str  # the image that set it, for messages

    @classmethod
    def of(cls, source: Source, decoder: images.Decoder) -> "LazyImages":
        """Returns the N >= 1 images of `source`.

        Decodes the first for its size, unless the decoder resizes all.

        Raises:
          DataError: it cannot be decoded.
        """
        rows, first = np.arange(len(source)), ""
        if decoder.size:
            height, width = decoder.size
        else:
            file = source.read(0)
            first, (height, width, _) = file[0], decoder(file).shape
        return cls(source, decoder, rows, (height, width, decoder.channels), first)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return len(self.rows), *self.image_shape

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._image, self.rows)

    @overload
    def __getitem__(self, index: int | np.integer) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: np.ndarray | slice) -> "LazyImages": ...

    def __getitem__(self, index):
        """Decodes an image for an integer: [H, W, C]; else returns rows, undecoded.

        Args:
          index: an integer, or what takes rows of a numpy array [N].
        """
        rows = np.asarray(self.rows[index])
        if rows.ndim > 1:
            raise IndexError(f"the index has {rows.ndim} axes, expected one at most")
        return dataclasses.replace(self, rows=rows) if rows.ndim else self._image(rows)

    def decode(self, index: np.ndarray) -> np.ndarray:
        """Returns the images `index` [B], in its order: uint8 [B, H, W, C].

        Threads decode them where the decoder resizes, as in `images.decode_all`.

        Raises:
          DataError: one cannot be read or decoded, or has another size.
        """
        rows = self[index].rows
        pixels = np.empty((len(rows), *self.image_shape), np.uint8)
        with self.decoder.mapping() as map_all:
            for i, image in enumerate(map_all(self._image, rows)):
                pixels[i] = image
        return pixels

    def join(self, other: "LazyImages") -> "LazyImages":
        """Returns these images, then those of `other`, which is resized likewise.

        Raises:
          DataError: those of `other` have another size.
        """
        images.check_size(other.first, other.image_shape, self.first, self.image_shape)
        rows = np.concatenate([self.rows, other.rows + len(self.source)])
        source = _Chain(self.source, other.source)
        return dataclasses.replace(self, source=source, rows=rows)

    def _image(self, row: Any) -> np.ndarray:
        file = self.source.read(int(row))
        image = self.decoder(file)
        images.check_size(file[0], image.shape, self.first, self.image_shape)
        return image

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        # numpy and JAX would decode one image after the other, all of them.
        raise TypeError("streamed images are no array; use decode(index) for a batch")


@dataclasses.dataclass(frozen=True, eq=False)
class _Chain:
    """The images of `head`, then those of `tail`."""

    head: Source
    tail: Source

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def read(self, row: int) -> tuple[str, bytes]:
        if row < len(self.head):
            return self.head.read(row)
        return self.tail.read(row - len(self.head))


@contextlib.contextmanager
def reading(root: pathlib.Path) -> Iterator[None]:
    """Turns what a file that cannot be read makes its reader raise into one line."""
    try:
        yield
    except _UNREADABLE as error:
        raise DataError(
            f"{root} cannot be read: {error}; make it readable or get it again"
        ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Images of a folder or an archive: a `Source`."""

    root: pathlib.Path
    names: Sequence[str]
    handles: Sequence[Any]
    contents: Callable[[Any], bytes]  # of a file, by its handle

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> tuple[str, bytes]:
        with reading(self.root):
            return self.names[row], self.contents(self.handles[row])


class ZipReader:
    """Reads files of a .zip archive, which is opened once in each process."""

    def __init__(self, path: str):
        self._path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None

    def read(self, name: str) -> bytes:
        """Returns the contents of a file.

        Raises:
          KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error: it is absent,
            encrypted or damaged.
        """
        # Opening and closing count references without a lock, reading has its own.
        with self._lock:
            if self._archive is None:
                self._archive = zipfile.ZipFile(self._path)
            file = self._archive.open(name)
        try:
            return file.read()
        finally:
            with self._lock:
                file.close()

    def __reduce__(self):
        return ZipReader, (self._path,)


# Offset and size of the contents of a file in bytes, or why there are none.
Extent = tuple[int, int] | str


@dataclasses.dataclass(frozen=True)
class TarReader:
    """Reads files of an uncompressed .tar archive."""

    path: str

    def read(self, extent: Extent) -> bytes:
        """Returns the contents of a file.

        Raises:
          OSError: the archive cannot be read.
          tarfile.ReadError: there are none.
        """
        if isinstance(extent, str):
            raise tarfile.ReadError(extent)
        # A handle of its own is safe in any thread and process.
        with open(self.path, "rb") as file:
            file.seek(extent[0])
            return file.read(extent[1])


def tar_extents(members: Sequence[tarfile.TarInfo]) -> list[Extent]:
    """Returns where the contents of each member are; links are followed.

    As tarfile does: a hard link leads to the last member of that name before it, a
    symbolic one to the last in the archive.

    Args:
      members: all of an archive, in its order.
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
        return f"{member.name} is no file"
    if file.issparse():
        return f"{member.name} is stored as a sparse file, which cannot be streamed"
    return file.offset_data, file.size
