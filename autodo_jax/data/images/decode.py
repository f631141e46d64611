"""Decodes images of any kind to pixels, uint8 [H, W, C]."""

import contextlib
import dataclasses
import io
import itertools
import math
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

import ml_collections
import numpy as np
from PIL import Image, ImageOps

from autodo_jax.errors import DataError

MAX_PIXELS = 2**26  # 8192 x 8192; larger images may be crafted to fill memory
RESIZES = ("crop", "stretch")
_MODES = {1: "L", 3: "RGB"}
# MAX_PIXELS is stricter than Pillow's own bound.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_CHUNK = 256  # encoded images in memory at once, besides the decoded ones


def to_array(
    image: Image.Image,
    *,
    channels: int,
    size: tuple[int, int] | tuple[()] = (),
    resize: str = "crop",
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

    Returns:
      uint8 [H, W, channels].

    Raises:
      OSError: the file is truncated or corrupt.
      ValueError: more than MAX_PIXELS pixels, other `channels` or another `resize`.
    """
    if channels not in _MODES:
        raise ValueError(f"channels is {channels}, expected 1 (grey) or 3 (RGB)")
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}, expected one of {', '.join(RESIZES)}")
    if image.width * image.height > MAX_PIXELS:
        sides = _sides((image.height, image.width))
        raise ValueError(f"it has {sides} pixels, more than {MAX_PIXELS:,}")
    image = _opaque(_eight_bit(_upright(image)))
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    if size and size != (image.height, image.width):
        height, width = size
        scale = ImageOps.fit if resize == "crop" else Image.Image.resize
        image = scale(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image.height, image.width, channels)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error):  # Damaged EXIF data; the image may be sound.
        return image


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

    def __call__(self, file: tuple[str, bytes]) -> np.ndarray:
        """Returns uint8 [H, W, channels].

        Raises:
          DataError: the image, which the message names, cannot be decoded.
        """
        name, content = file
        stream = io.BytesIO(content)
        try:
            with Image.open(stream) as image:
                return to_array(
                    image,
                    channels=self.channels,
                    size=self.size,
                    resize=self.resize,
                )
        # Decoders raise errors of any kind for damaged files.
        except Exception as error:
            reason = str(error).replace(repr(stream), "by its content")
            raise DataError(
                f"the image {name} cannot be read: {reason}",
                "replace it",
                "move it elsewhere",
            ) from error

    @contextlib.contextmanager
    def mapping(self) -> Iterator[Callable[..., Iterator[np.ndarray]]]:
        """Context that gives a `map` for functions that decode one image."""
        with futures.ThreadPoolExecutor() as pool:
            # Threads pay off for large images only, such as those that are resized.
            yield pool.map if self.size else map


def decoder(data: ml_collections.ConfigDict) -> Decoder:
    """Returns the decoder that config.data asks for."""
    return Decoder(len(data.mean), tuple(data.image_size), data.resize)


def decode_all(
    files: Iterable[tuple[str, bytes]], num_files: int, decoder: Decoder
) -> np.ndarray:
    """Returns the pixels of encoded images, which must be of one size when decoded.

    Args:
      files: names, for messages, and contents; read as they are needed.
      num_files: N >= 1.
      decoder: of one image.

    Returns:
      uint8 [N, H, W, channels].

    Raises:
      DataError: an image that cannot be decoded, or differs in size from the first.
    """
    pixels = np.empty(0, np.uint8)
    remaining = iter(files)
    with decoder.mapping() as map_all:
        for start in range(0, num_files, _CHUNK):
            chunk = list(itertools.islice(remaining, _CHUNK))
            for i, image in enumerate(map_all(decoder, chunk), start):
                name = chunk[i - start][0]
                if i == 0:
                    first, pixels = name, _reserve((num_files, *image.shape))
                check_size(name, image.shape, first, pixels.shape[1:])
                pixels[i] = image
    return pixels


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
