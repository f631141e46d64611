"""The kinds of image files that are read, and how a file of each is opened."""

import functools
import io
import struct
import warnings
from typing import NamedTuple

from PIL import Image, JpegImagePlugin

MAX_SIDE = 2**16  # pixels; an image of one row may be crafted to fill memory
# Of Pillow's formats those with pixels, which it decodes by itself.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO"),
    *("JPEG2000", "MPO", "PCX", "PPM", "PSD", "QOI", "SGI", "SUN", "TIFF", "TGA"),
    "XBM",
)
_NEAR_TEXT = {"DIB", "TGA", "XBM"}  # Other files may well begin as these do.
_HEAD = 32  # bytes by which a file is told to be an image
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
_GREY = ("1", "L", "LA", "La", "F")
# The bound on pixels is stricter than that at which Pillow warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the endings of image files, like ".png", in lower case."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in FORMATS)


def begins_as_image(head: bytes) -> bool:
    """Returns True where a file that begins with these bytes is an image.

    Args:
      head: 32 bytes, or all of a shorter file.
    """
    tests = [Image.OPEN[name][1] for name in _registered() if name not in _NEAR_TEXT]
    return any(accept(head[:_HEAD]) for accept in tests if accept is not None)


@functools.cache
def _registered() -> tuple[str, ...]:
    """Returns those of FORMATS that this installation of Pillow has."""
    Image.init()  # imports all plugins
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(content: bytes) -> Image.Image:
    """Opens an image file; its pixels are not decoded yet.

    Profiles and texts in a PNG are skipped, whatever their size: Pillow would refuse
    the file for them. The pixels of a JPEG are not bounded yet, since it may be decoded
    at a smaller scale.

    Raises:
      Exception: of any kind, where Pillow cannot read the file.
    """
    stream = io.BytesIO(_without_metadata(content))
    if content.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(stream)
    try:
        return Image.open(stream, formats=_registered())
    except Image.UnidentifiedImageError as error:
        raise Image.UnidentifiedImageError(
            "cannot identify image file by its content"
        ) from error


class Kind(NamedTuple):
    """What the header of an image file says."""

    size: tuple[int, int]  # (height, width)
    is_grey: bool
    is_transparent: bool


def kind_of(content: bytes) -> Kind | None:
    """Returns the kind of an image by its header; None where it cannot be read."""
    try:
        with open_image(content) as image:
            is_grey = image.mode in _GREY or image.mode.startswith("I")
            size = image.height, image.width
            return Kind(size, is_grey, image.has_transparency_data)
    except Exception:  # It is refused when it is decoded.
        return None


def _without_metadata(content: bytes) -> bytes:
    if not content.startswith(_PNG):
        return content
    start, kept, position = 0, [], len(_PNG)
    while position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if name in _PNG_METADATA:
            kept.append(content[start:position])
            start = end
        position = end
    return b"".join([*kept, content[start:]]) if kept else content
