"""Decodes images of any kind to pixels, uint8 [H, W, C]."""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import ml_collections
import numpy as np
from PIL import Image

from autodo_jax.data.images import formats
from autodo_jax.data.images.pixels import (
    LARGE,
    MAX_PIXELS,
    TooManyPixels,
    plain,
    sides,
    to_array,
)
from autodo_jax.errors import DataError

# Encoded images in memory at once, besides the decoded ones, and their bytes.
_CHUNK, _CHUNK_BYTES = 256, 2**27
_ONE_LARGE = threading.Lock()
UNREADABLE = ("replace it", "move it elsewhere")  # advice on an image
_LISTED = 10  # unreadable images that an error names
_DIGEST_BYTES = 16

_T = TypeVar("_T")

Contents = bytes | DataError  # of a file, or the error of reading it


def _digest(image: Image.Image) -> bytes:
    """Returns what tells the pixels of images apart, without holding them."""
    digest = hashlib.sha256(f"{image.height} {image.width} ".encode())
    digest.update(image.tobytes())
    return digest.digest()[:_DIGEST_BYTES]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes images, given as (name, contents); fields as in `pixels.to_array`."""

    channels: int
    size: tuple[int, int] | tuple[()] = ()
    resize: str = "crop"
    max_pixels: int = MAX_PIXELS

    def __call__(self, file: tuple[str, bytes]) -> np.ndarray:
        """Returns uint8 [H, W, channels].

        Raises:
          DataError: the image, which the message names, cannot be decoded.
        """
        return self._of(file, lambda image: to_array(image, **dataclasses.asdict(self)))

    def with_digest(self, file: tuple[str, bytes]) -> tuple[np.ndarray, bytes]:
        """Returns pixels as `__call__` and a digest of those before it resizes them.

        Raises:
          DataError: as `__call__`.
        """

        def read(image: Image.Image) -> tuple[np.ndarray, bytes]:
            whole = plain(image, self.channels, self.size, self.max_pixels)
            return to_array(whole, **dataclasses.asdict(self)), _digest(whole)

        return self._of(file, read)

    def digest(self, file: tuple[str, bytes]) -> tuple[tuple[int, ...], bytes]:
        """Returns the shape (H, W, channels) of `__call__`, and the digest alone.

        Raises:
          DataError: as `__call__`.
        """

        def read(image: Image.Image) -> tuple[tuple[int, ...], bytes]:
            whole = plain(image, self.channels, self.size, self.max_pixels)
            size = self.size or (whole.height, whole.width)
            return (*size, self.channels), _digest(whole)

        return self._of(file, read)

    def _of(self, file: tuple[str, bytes], read: Callable[[Image.Image], _T]) -> _T:
        name, content = file
        try:
            with formats.open_image(content) as image:
                is_large = image.width * image.height > LARGE
                # Of large ones as many as there are threads would fill memory.
                with _ONE_LARGE if is_large else contextlib.nullcontext():
                    return read(image)
        except TooManyPixels as error:
            raise DataError(
                f"the image {name} cannot be read: {error}",
                "replace it",
                "raise <config.data.max_pixels>",
                *(() if self.size else ("resize all by <config.data.image_size>",)),
            ) from error
        # Decoders raise errors of any kind for damaged files.
        except Exception as error:
            raise DataError(
                f"the image {name} cannot be read: {error}", *UNREADABLE
            ) from error

    @contextlib.contextmanager
    def mapping(self) -> Iterator[Callable[..., Iterator[Any]]]:
        """Context that gives a `map` for functions that decode one image."""
        with futures.ThreadPoolExecutor() as pool:
            # Threads pay off for large images only, such as those that are resized.
            yield pool.map if self.size else map


def decoder(data: ml_collections.ConfigDict) -> Decoder:
    """Returns the decoder that config.data asks for."""
    size = tuple(data.image_size)
    return Decoder(len(data.mean), size, data.resize, data.max_pixels)


class Decoded(NamedTuple):
    """Images in memory, and those that could not be read."""

    pixels: np.ndarray  # uint8 [N, H, W, channels], of the readable ones
    digests: list[bytes]  # N, of their pixels before they were resized
    rows: np.ndarray  # int [N], their positions among the files
    failures: list[DataError]


def decode_all(
    files: Iterable[tuple[str, Contents]], num_files: int, decoder: Decoder
) -> Decoded:
    """Decodes images, which must be of one size when decoded.

    Args:
      files: names, for messages, and contents, or the errors of reading them.
      num_files: N >= 1.
      decoder: of one image.

    Raises:
      DataError: an image that differs in size from the first.
    """
    pixels, first = np.zeros((0, 0, 0, 0), np.uint8), ""
    digests: list[bytes] = []
    rows: list[int] = []
    failures: list[DataError] = []
    found = attempts(files, decoder, decoder.with_digest)
    for row, (name, result) in enumerate(found):
        if isinstance(result, DataError):
            failures.append(result)
            continue
        image, digest = result
        if not rows:
            first, pixels = name, _reserve((num_files, *image.shape))
        check_size(name, image.shape, first, pixels.shape[1:])
        pixels[len(rows)] = image
        rows.append(row)
        digests.append(digest)
    rows_of_files = np.array(rows, np.int64)
    return Decoded(pixels[: len(rows)], digests, rows_of_files, failures)


def digest_all(
    files: Iterable[tuple[str, Contents]], decoder: Decoder
) -> tuple[dict[str, bytes], list[DataError]]:
    """Reads images as `decode_all`, and holds none of their pixels.

    Args:
      files: as `decode_all` takes them.
      decoder: of one image.

    Returns:
      digests of the readable ones, by name; and the failures.

    Raises:
      DataError: an image that differs in size from the first.
    """
    digests: dict[str, bytes] = {}
    failures: list[DataError] = []
    first, expected = "", tuple[int, ...]()
    for name, result in attempts(files, decoder, decoder.digest):
        if isinstance(result, DataError):
            failures.append(result)
            continue
        shape, digests[name] = result
        first, expected = first or name, expected or shape
        check_size(name, shape, first, expected)
    return digests, failures


def attempts(
    files: Iterable[tuple[str, Contents]],
    decoder: Decoder,
    read: Callable[[tuple[str, bytes]], _T],
) -> Iterator[tuple[str, _T | DataError]]:
    """Yields the name of each file with what `read` returns, or with its error.

    Args:
      files: names, for messages, and contents, or the errors of reading them.
      decoder: whose threads are used.
      read: the decoder, or a method of it that reads one image.
    """

    def attempt(file: tuple[str, Contents]) -> _T | DataError:
        name, content = file
        if isinstance(content, DataError):
            return content
        try:
            return read((name, content))
        except DataError as error:
            return error

    remaining = iter(files)
    with decoder.mapping() as map_all:
        while chunk := list(_next_chunk(remaining)):
            names = [name for name, _ in chunk]
            yield from zip(names, map_all(attempt, chunk), strict=True)


def _next_chunk(
    remaining: Iterator[tuple[str, Contents]],
) -> Iterator[tuple[str, Contents]]:
    num_bytes = 0
    for name, content in itertools.islice(remaining, _CHUNK):
        yield name, content
        num_bytes += 0 if isinstance(content, DataError) else len(content)
        if num_bytes >= _CHUNK_BYTES:
            return


def refuse(failures: Sequence[DataError], *advice: str) -> None:
    """Raises one DataError for all images that cannot be read, if there are any.

    Args:
      failures: one for each image.
      advice: further alternatives.
    """
    if len(failures) == 1:
        raise DataError(failures[0].reason, *failures[0].advice, *advice)
    if failures:
        listed = "; ".join(error.reason for error in failures[:_LISTED])
        more = len(failures) - _LISTED
        raise DataError(
            f"{len(failures)} images cannot be read: {listed}"
            f"{f'; and {more} others' * (more > 0)}",
            "replace them",
            "move them elsewhere",
            *advice,
        )


def check_size(
    name: str, shape: tuple[int, ...], first: str, expected: tuple[int, ...]
) -> None:
    """Raises DataError for an image whose shape is not that of the image `first`."""
    if shape != expected:
        raise DataError(
            f"the image {name} has {sides(shape)} pixels, {first} has "
            f"{sides(expected)}",
            "resize all by <config.data.image_size=(HEIGHT, WIDTH)>",
        )


def _reserve(shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{shape[0]} images of {shape[1]}x{shape[2]} pixels take "
            f"{math.prod(shape) / 1e9:.1f} GB, more than this machine's memory",
            "set <config.data.max_train_points>",
            "set a smaller <config.data.image_size>",
        ) from error
