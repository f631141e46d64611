"""Decodes images of any kind to pixels, uint8 [H, W, C]."""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import ml_collections
import numpy as np
from PIL import Image, ImageOps

from autodo_jax.data.images import formats
from autodo_jax.errors import DataError

MAX_PIXELS = 2**26  # 8192 x 8192; larger images may be crafted to fill memory
RESIZES = ("crop", "stretch")
_MODES = {1: "L", 3: "RGB"}
_SCALES = (2, 4, 8)  # at which JPEGs can be decoded instead
# Encoded images in memory at once, besides the decoded ones, and their bytes.
_CHUNK, _CHUNK_BYTES = 256, 2**27
_LARGE, _STRIP = 2**22, 2**20  # pixels of an image that is converted in strips
_ONE_LARGE = threading.Lock()
UNREADABLE = ("replace it", "move it elsewhere")  # advice on an image
_LISTED = 10  # unreadable images that an error names
_DIGEST_BYTES = 16

_T = TypeVar("_T")

Contents = bytes | DataError  # of a file, or the error of reading it


class TooManyPixels(ValueError):
    """An image whose pixels would take too much memory."""


def to_array(
    image: Image.Image,
    *,
    channels: int,
    size: tuple[int, int] | tuple[()] = (),
    resize: str = "crop",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Returns the pixels of an upright, opaque image.

    The EXIF orientation is applied if it can be read, 16 bits a channel are scaled to
    8, palettes and other colour spaces are converted, and transparency is blended with
    white. Resizing is bilinear, antialiased where it shrinks.

    Args:
      image: as opened by Pillow; it need not be loaded yet.
      channels: 3 for RGB or 1 for grey.
      size: (height, width) in pixels; () keeps the image's own.
      resize: "crop" scales the image to just cover `size`, keeping its aspect ratio,
        and cuts out the centre; "stretch" scales each side on its own.
      max_pixels: of the image; a larger JPEG is decoded at a half, a quarter or an
        eighth of its sides, if it is resized anyway.

    Returns:
      uint8 [H, W, channels].

    Raises:
      OSError: the file is truncated or corrupt.
      TooManyPixels: more than `max_pixels` pixels, or 65,536 on a side.
      ValueError: other `channels` or another `resize`.
    """
    if channels not in _MODES:
        raise ValueError(f"channels is {channels}, expected 1 (grey) or 3 (RGB)")
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}, expected one of {', '.join(RESIZES)}")
    if not size and image.width * image.height > _LARGE:
        _check_pixels(image, size, max_pixels)
        return _array_in_strips(_upright(image), channels)
    image = _plain(image, channels, size, max_pixels)
    if size and size != (image.height, image.width):
        height, width = size
        scale = ImageOps.fit if resize == "crop" else Image.Image.resize
        image = scale(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image.height, image.width, channels)


def _plain(
    image: Image.Image, channels: int, size: tuple[int, int] | tuple[()], limit: int
) -> Image.Image:
    """Returns an upright, opaque image of 8 bits a channel, in its own size."""
    _check_pixels(image, size, limit)
    image, mode = _upright(image), _MODES[channels]
    is_large = image.width * image.height > _LARGE
    return _in_strips(image, mode) if is_large else _in_mode(image, mode)


def _digest(image: Image.Image) -> bytes:
    """Returns what tells the pixels of images apart, without holding them."""
    digest = hashlib.sha256(f"{image.height} {image.width} ".encode())
    digest.update(image.tobytes())
    return digest.digest()[:_DIGEST_BYTES]


def _check_pixels(
    image: Image.Image, size: tuple[int, int] | tuple[()], max_pixels: int
) -> None:
    """Refuses a large image, but for a JPEG that can be decoded at a smaller scale."""
    height, width = image.height, image.width
    if max(height, width) > formats.MAX_SIDE:
        raise TooManyPixels(
            f"it has {_sides((height, width))} pixels, more than {formats.MAX_SIDE:,} "
            "on a side"
        )
    if size and width * height > max_pixels:
        for scale in _SCALES:
            if (width // scale) * (height // scale) <= max_pixels:
                image.draft(image.mode, (width // scale, height // scale))
                break
    if image.width * image.height > max_pixels:
        raise TooManyPixels(
            f"it has {_sides((height, width))} pixels, more than {max_pixels:,}"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error):  # Damaged EXIF data; the image may be sound.
        return image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    image = _opaque(_eight_bit(image))
    return image if image.mode == mode else image.convert(mode)


def _strips(image: Image.Image, mode: str) -> Iterator[tuple[int, Image.Image]]:
    """Yields the first row of each strip with its pixels: copies of all are too many.

    What is done to a pixel depends on no other.
    """
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield top, _in_mode(image.crop(box), mode)


def _in_strips(image: Image.Image, mode: str) -> Image.Image:
    converted = Image.new(mode, image.size)
    for top, strip in _strips(image, mode):
        converted.paste(strip, (0, top))
    return converted


def _array_in_strips(image: Image.Image, channels: int) -> np.ndarray:
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    for top, strip in _strips(image, _MODES[channels]):
        rows = pixels[top : top + strip.height]
        rows[...] = np.asarray(strip).reshape(rows.shape)
    return pixels


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scales grey levels 0..65535 to 0..255, where Pillow's conversion would clip."""
    if not image.mode.startswith("I"):
        return image
    levels = np.clip(np.asarray(image), 0, 65535)
    return Image.fromarray(np.round(levels / 257).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes images, given as (name, contents); fields as in `to_array`."""

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
            plain = _plain(image, self.channels, self.size, self.max_pixels)
            return to_array(plain, **dataclasses.asdict(self)), _digest(plain)

        return self._of(file, read)

    def digest(self, file: tuple[str, bytes]) -> tuple[tuple[int, ...], bytes]:
        """Returns the shape (H, W, channels) of `__call__`, and the digest alone.

        Raises:
          DataError: as `__call__`.
        """

        def read(image: Image.Image) -> tuple[tuple[int, ...], bytes]:
            plain = _plain(image, self.channels, self.size, self.max_pixels)
            size = self.size or (plain.height, plain.width)
            return (*size, self.channels), _digest(plain)

        return self._of(file, read)

    def _of(self, file: tuple[str, bytes], read: Callable[[Image.Image], _T]) -> _T:
        name, content = file
        try:
            with formats.open_image(content) as image:
                is_large = image.width * image.height > _LARGE
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
            f"the image {name} has {_sides(shape)} pixels, {first} has "
            f"{_sides(expected)}",
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


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
