"""Pixels of one image that Pillow has opened: upright, opaque, uint8 [H, W, C]."""

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from autodo_jax.data.images import formats

MAX_PIXELS = 2**26  # 8192 x 8192; larger images may be crafted to fill memory
RESIZES = ("crop", "stretch")
_MODES = {1: "L", 3: "RGB"}
_SCALES = (2, 4, 8)  # at which JPEGs can be decoded instead
LARGE = 2**22  # pixels of an image that is converted in strips
_STRIP = 2**20


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
    if not size and image.width * image.height > LARGE:
        _check_pixels(image, size, max_pixels)
        return _array_in_strips(_upright(image), channels)
    image = plain(image, channels, size, max_pixels)
    if size and size != (image.height, image.width):
        height, width = size
        scale = ImageOps.fit if resize == "crop" else Image.Image.resize
        image = scale(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image.height, image.width, channels)


def plain(
    image: Image.Image, channels: int, size: tuple[int, int] | tuple[()], limit: int
) -> Image.Image:
    """Returns an upright, opaque image of 8 bits a channel, in its own size.

    Args:
      image: as opened by Pillow.
      channels: 3 for RGB or 1 for grey.
      size: that it will be resized to, or (); see `max_pixels` of `to_array`.
      limit: pixels at most.

    Raises:
      TooManyPixels: more than that, or 65,536 on a side.
    """
    _check_pixels(image, size, limit)
    image, mode = _upright(image), _MODES[channels]
    is_large = image.width * image.height > LARGE
    return _in_strips(image, mode) if is_large else _in_mode(image, mode)


def _check_pixels(
    image: Image.Image, size: tuple[int, int] | tuple[()], max_pixels: int
) -> None:
    """Refuses a large image, but for a JPEG that can be decoded at a smaller scale."""
    height, width = image.height, image.width
    if max(height, width) > formats.MAX_SIDE:
        raise TooManyPixels(
            f"it has {sides((height, width))} pixels, more than {formats.MAX_SIDE:,} "
            "on a side"
        )
    if size and width * height > max_pixels:
        for scale in _SCALES:
            if (width // scale) * (height // scale) <= max_pixels:
                image.draft(image.mode, (width // scale, height // scale))
                break
    if image.width * image.height > max_pixels:
        raise TooManyPixels(
            f"it has {sides((height, width))} pixels, more than {max_pixels:,}"
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


def sides(shape: tuple[int, ...]) -> str:
    """Returns "HEIGHTxWIDTH" of a shape that begins with both."""
    return f"{shape[0]}x{shape[1]}"
