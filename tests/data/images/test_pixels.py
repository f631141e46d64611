"""Conversion and resizing against Pillow's own operations and numpy."""

import io

import numpy as np
import pytest
from PIL import Image

from autodo_jax.data.images.pixels import to_array


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def reopened(image, file_format="PNG", **options):
    """The image as a file opened again, not yet decoded."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(file)


def test_rgb_stays_as_it_is(pixels):
    image = reopened(Image.fromarray(pixels))
    np.testing.assert_array_equal(to_array(image, channels=3), pixels)


def test_result_can_be_written_to(pixels):
    result = to_array(reopened(Image.fromarray(pixels)), channels=3)
    assert result.dtype == np.uint8 and result.flags.writeable


def test_grey_becomes_three_equal_channels_and_back(pixels):
    grey = pixels[..., 0]
    image = reopened(Image.fromarray(grey))
    np.testing.assert_array_equal(to_array(image, channels=1)[..., 0], grey)
    np.testing.assert_array_equal(
        to_array(image, channels=3), np.repeat(grey[..., None], 3, axis=-1)
    )


def test_rgb_becomes_luma(pixels):
    # ITU-R 601-2, to the rounding of its weights.
    expected = pixels @ np.array([0.299, 0.587, 0.114])
    result = to_array(reopened(Image.fromarray(pixels)), channels=1)
    assert np.abs(result[..., 0] - expected).max() <= 0.51


def test_bilevel_is_black_and_white(rng):
    bits = rng.integers(0, 2, (4, 9)).astype(bool)
    result = to_array(reopened(Image.fromarray(bits)), channels=1)
    np.testing.assert_array_equal(result[..., 0], np.where(bits, 255, 0))


def test_sixteen_bits_are_scaled(rng):
    levels = rng.integers(0, 65536, (6, 6), dtype=np.uint16)
    levels[0, :3] = 0, 257, 65535
    image = reopened(Image.fromarray(levels))
    assert image.mode.startswith("I")
    result = to_array(image, channels=1)[..., 0]
    np.testing.assert_array_equal(result[0, :3], [0, 1, 255])
    assert np.abs(result - levels / 257).max() <= 0.5


def test_palette_is_looked_up(rng):
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    index = rng.integers(0, 256, (5, 5), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    assert reopened(image).mode == "P"
    np.testing.assert_array_equal(to_array(reopened(image), channels=3), palette[index])


def test_transparent_pixels_are_laid_on_white(rng):
    rgba = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    rgba[0, 0] = 10, 20, 30, 0
    rgba[0, 1] = 10, 20, 30, 255
    result = to_array(reopened(Image.fromarray(rgba)), channels=3)
    np.testing.assert_array_equal(result[0, :2], [[255, 255, 255], [10, 20, 30]])
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(result - expected).max() <= 1


def test_grey_with_alpha_is_laid_on_white():
    levels = np.array([[[100, 0], [100, 255]]], np.uint8)
    image = reopened(Image.fromarray(levels))
    assert image.mode == "LA"
    np.testing.assert_array_equal(to_array(image, channels=1)[0, :, 0], [255, 100])


def test_transparent_palette_entry_is_laid_on_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    result = to_array(reopened(image, transparency=1), channels=3)
    np.testing.assert_array_equal(result[0], [[10, 20, 30], [255, 255, 255]])


def test_cmyk_is_converted():
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    image = Image.frombytes("CMYK", (3, 1), cmyk.tobytes()).resize((24, 8), 0)
    result = to_array(reopened(image, "JPEG", quality=100), channels=3)[4, [4, 12, 20]]
    expected = np.array([[255, 255, 255], [0, 255, 255], [0, 0, 0]])
    assert np.abs(result - expected).max() <= 3


# EXIF's orientation -> what it asks a viewer to do with the stored pixels.
ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_orientation_is_applied(pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = reopened(Image.fromarray(pixels), exif=exif)
    expected = ORIENTATIONS[orientation](pixels)
    np.testing.assert_array_equal(to_array(image, channels=3), expected)


@pytest.mark.parametrize(
    "exif", [b"", b"M", b"MM\0*\0\0\0\x0a", b"XX\0*\0\0\0\x08\0\1"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_image_with_unreadable_orientation_stays_as_it_is(pixels, exif):
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        image = reopened(Image.fromarray(pixels), file_format, exif=exif, **options)
        np.testing.assert_array_equal(to_array(image, channels=3), pixels)


@pytest.mark.parametrize(
    ("stored", "size"),
    [((40, 60), (20, 20)), ((60, 40), (30, 20)), ((30, 50), (60, 60))],
)
def test_crop_scales_the_shorter_side_and_cuts_the_centre(rng, stored, size):
    image = Image.fromarray(rng.integers(0, 256, (*stored, 3), dtype=np.uint8))
    scale = max(size[0] / stored[0], size[1] / stored[1])
    height, width = round(stored[0] * scale), round(stored[1] * scale)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[top : top + size[0], left : left + size[1]]
    result = to_array(image, channels=3, size=size, resize="crop")
    np.testing.assert_array_equal(result, expected)


def test_crop_of_any_aspect_has_the_size_asked_for(rng):
    for height, width in rng.integers(1, 50, (50, 2)):
        image = Image.new("L", (int(width), int(height)), 77)
        result = to_array(image, channels=1, size=(13, 17))
        assert result.shape == (13, 17, 1) and (result == 77).all()


def test_stretch_scales_each_side(rng):
    image = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    result = to_array(image, channels=3, size=(10, 30), resize="stretch")
    expected = np.asarray(image.resize((30, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(result, expected)


def test_shrinking_averages():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(board.astype(np.uint8))
    for resize in ("crop", "stretch"):
        result = to_array(image, channels=1, size=(8, 8), resize=resize)
        assert np.abs(result.astype(int) - 127.5).max() <= 2


def test_images_of_the_size_are_not_resampled(pixels):
    image = Image.fromarray(pixels)
    for resize in ("crop", "stretch"):
        result = to_array(image, channels=3, size=(5, 7), resize=resize)
        np.testing.assert_array_equal(result, pixels)


def test_truncated_file_raises_oserror(rng):
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for file_format in ("JPEG", "PNG", "WEBP"):
        file = io.BytesIO()
        image.save(file, file_format)
        cut = io.BytesIO(file.getvalue()[: file.tell() // 2])
        with pytest.raises(OSError):
            to_array(Image.open(cut), channels=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "channels is 4, expected 1 .grey. or 3 .RGB."),
        ({"channels": 3, "resize": "pad"}, "resize is 'pad', expected one of crop"),
    ],
)
def test_unknown_options_are_refused(pixels, options, message):
    with pytest.raises(ValueError, match=message):
        to_array(Image.fromarray(pixels), **options)
