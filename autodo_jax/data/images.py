"""From a decoded image of any kind to pixels: uint8 [H, W, C]."""

import io
import itertools
import math
import struct
from collections.abc import Iterable
from concurrent import futures

import numpy as np
from PIL import Image, ImageOps

from autodo_jax.data.dataset import DataError

RESIZES = ("crop", "stretch")
_MODES = {1: "L", 3: "RGB"}
_CHUNK = 256  # encoded images in memory at once, beside the decoded ones


def to_array(
    image: Image.Image,
    *,
    channels: int,
    size: tuple[int, int] | tuple[()] = (),
    resize: str = "crop",
) -> np.ndarray:
    """Returns the pixels of an upright, opaque image.

    The orientation noted by a camera (EXIF) is applied where it can be read, 16 bits a
    channel are scaled to 8, palettes and other colour spaces are converted, and what is
    transparent is laid on white. Resizing is bilinear, antialiased where it shrinks.

    Args:
      image: as opened by Pillow; it need not be loaded yet.
      channels: 3 for RGB or 1 for grey.
      size: (height, width) in pixels; () keeps the image's own.
      resize: "crop" scales the image, its aspect kept, until it just covers `size` and
        cuts the centre out; "stretch" scales each side on its own.

    Returns:
      uint8 [H, W, channels].

    Raises:
      OSError: the file is truncated or corrupt.
      ValueError: other `channels` or another `resize`.
    """
    if channels not in _MODES:
        raise ValueError(f"channels is {channels}, expected 1 (grey) or 3 (RGB)")
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}, expected one of {', '.join(RESIZES)}")
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
    except (SyntaxError, struct.error):  # of the EXIF data; the image may be sound
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


def decode_all(
    files: Iterable[tuple[str, bytes]],
    num_files: int,
    *,
    channels: int,
    size: tuple[int, int] | tuple[()] = (),
    resize: str = "crop",
) -> np.ndarray:
    """Returns the pixels of encoded images, which end up with the same size.

    Args:
      files: names, for messages, and contents; read as they are needed.
      num_files: N >= 1.
      channels, size, resize: as in `to_array`.

    Returns:
      uint8 [N, H, W, channels].

    Raises:
      DataError: an image that cannot be decoded, or differs in size from the first.
    """

    def decode(file: tuple[str, bytes]) -> np.ndarray:
        name, content = file
        stream = io.BytesIO(content)
        try:
            with Image.open(stream) as image:
                return to_array(image, channels=channels, size=size, resize=resize)
        # Decoders raise what they like on damaged files.
        except Exception as error:
            reason = str(error).replace(repr(stream), "by its content")
            raise DataError(
                f"the image {name} cannot be read: {reason}; replace or remove it"
            ) from error

    pixels = np.empty(0, np.uint8)
    remaining = iter(files)
    with futures.ThreadPoolExecutor() as pool:
        # Threads pay for large images, as those to be resized are; not for small ones.
        map_all = pool.map if size else map
        for start in range(0, num_files, _CHUNK):
            chunk = list(itertools.islice(remaining, _CHUNK))
            for i, image in enumerate(map_all(decode, chunk), start):
                if i == 0:
                    first, pixels = chunk[0][0], _reserve((num_files, *image.shape))
                if image.shape != pixels.shape[1:]:
                    raise DataError(
                        f"the image {chunk[i - start][0]} has {_sides(image)} pixels, "
                        f"{first} has {_sides(pixels[0])}; resize all by "
                        "--config.data.image_size='(HEIGHT, WIDTH)'"
                    )
                pixels[i] = image
    return pixels


def _reserve(shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{shape[0]} images of {shape[1]}x{shape[2]} pixels take "
            f"{math.prod(shape) / 1e9:.1f} GB, more than this machine's memory; set "
            "--config.data.max_train_points or a smaller image_size"
        ) from error


def _sides(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
