"""Images that stay on the disk until they are asked for (`config.data.stream`).

The pixels equal those of the resident array, since the decoder is the same.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol, overload

import numpy as np

from autodo_jax.data.images import archive_files
from autodo_jax.data.images.decode import Decoder, check_size


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
    decoder: Decoder
    rows: np.ndarray  # int [N], positions in `source`
    image_shape: tuple[int, int, int]  # (H, W, C)
    first: str  # name of the image with this shape, for messages

    @classmethod
    def of(cls, source: Source, decoder: Decoder) -> "LazyImages":
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

    def __getitem__(
        self, index: int | np.integer | np.ndarray | slice
    ) -> "np.ndarray | LazyImages":
        """Returns a decoded image [H, W, C] for an integer, else rows, not decoded.

        Args:
          index: an integer, or an index that selects rows of a numpy array [N].
        """
        rows = np.asarray(self.rows[index])
        if rows.ndim > 1:
            raise IndexError(f"the index has {rows.ndim} axes, expected one at most")
        return dataclasses.replace(self, rows=rows) if rows.ndim else self._image(rows)

    def decode(self, index: np.ndarray) -> np.ndarray:
        """Returns the images `index` [B], in its order: uint8 [B, H, W, C].

        Threads decode them where the decoder resizes, as in `decode_all`.

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
        """Returns these images, then those of `other`, which has the same decoder.

        Raises:
          DataError: those of `other` have another size.
        """
        check_size(other.first, other.image_shape, self.first, self.image_shape)
        rows = np.concatenate([self.rows, other.rows + len(self.source)])
        source = _Chain(self.source, other.source)
        return dataclasses.replace(self, source=source, rows=rows)

    def _image(self, row: Any) -> np.ndarray:
        file = self.source.read(int(row))
        image = self.decoder(file)
        check_size(file[0], image.shape, self.first, self.image_shape)
        return image

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        # numpy and JAX would decode all images, one after the other.
        raise TypeError(
            "streamed images are not an array; use decode(index) for a batch"
        )


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


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Source of the images of a folder or an archive."""

    root: pathlib.Path
    names: Sequence[str]
    handles: Sequence[Any]
    contents: Callable[[Any], bytes]  # of a file, by its handle

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> tuple[str, bytes]:
        with archive_files.reading(self.root):
            return self.names[row], self.contents(self.handles[row])
