"""The operations of the augmentation policies against Pillow, bit for bit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from autodo_jax.augment import pil_ops

NAMES = tuple(pil_ops.OPERATIONS)
SIZES = [(32, 32), (33, 48)]
NUM_IMAGES = 260  # of each size


def affine(image, a=1.0, b=0.0, c=0.0, d=0.0, e=1.0, f=0.0):
    data = (a, b, c, d, e, f)
    return image.transform(image.size, Image.Transform.AFFINE, data)


def filled_square(image, share, place):
    """Fast AutoAugment's Cutout, its centre on the grid that `cutout` documents."""
    if share <= 0:
        return image
    side = share * image.width
    start, end = [], []
    for length, offset in zip(image.size, place, strict=True):
        centre = length - np.floor(float(offset) * (length - 1) * 256) / 256
        start.append(int(max(0.0, centre - side / 2)))
        end.append(min(length, start[-1] + side))
    colour = (125, 123, 114)
    image = image.copy()
    ImageDraw.Draw(image).rectangle(
        (*start, *end), colour if image.mode == "RGB" else luma(colour)
    )
    return image


def luma(colour):
    return Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))


PILLOW = {
    "ShearX": lambda image, v, place: affine(image, b=v),
    "ShearY": lambda image, v, place: affine(image, d=v),
    "TranslateX": lambda image, v, place: affine(image, c=v * image.width),
    "TranslateY": lambda image, v, place: affine(image, f=v * image.height),
    "Rotate": lambda image, v, place: image.rotate(v),
    "AutoContrast": lambda image, v, place: ImageOps.autocontrast(image),
    "Invert": lambda image, v, place: ImageOps.invert(image),
    "Equalize": lambda image, v, place: ImageOps.equalize(image),
    "Solarize": lambda image, v, place: ImageOps.solarize(image, v),
    "Posterize": lambda image, v, place: ImageOps.posterize(image, int(v)),
    "Contrast": lambda image, v, place: ImageEnhance.Contrast(image).enhance(v),
    "Color": lambda image, v, place: ImageEnhance.Color(image).enhance(v),
    "Brightness": lambda image, v, place: ImageEnhance.Brightness(image).enhance(v),
    "Sharpness": lambda image, v, place: ImageEnhance.Sharpness(image).enhance(v),
    "Cutout": filled_square,
    "Identity": lambda image, v, place: image,
}


def pillow(names, images, values, places):
    """Pillow's results for each name, image [H, W, C], float32 value and place."""
    results = []
    for name, image, value, place in zip(names, images, values, places, strict=True):
        grey = image.shape[2] == 1
        source = Image.fromarray(image[..., 0] if grey else image)
        result = np.asarray(PILLOW[name](source, float(value), place))
        results.append(result[..., None] if grey else result)
    return np.stack(results)


def structured(size):
    """Ten images that random ones do not resemble."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(1)
    bell = [rng.normal(mean, std, (*size, 3)) for mean, std in ((128, 20), (90, 4))]
    few = rng.choice([3, 90, 91, 250], (*size, 3))
    planes = [
        np.zeros(size),
        np.full(size, 255),
        np.full(size, 77),
        x * 255 // (width - 1),
        y * 255 // (height - 1),
        (x + y) % 256,
        np.where(x < 5, 10, 200),
    ]
    stacked = [np.stack([plane, plane[::-1], plane], -1) for plane in planes]
    return np.clip([*stacked, *bell, few], 0, 255).astype(np.uint8)


@functools.cache
def images_of(size):
    rng = np.random.default_rng(0)
    count = NUM_IMAGES - 10
    low, high = np.sort(rng.integers(0, 257, (2, count, 1, 1, 3)), axis=0)
    high[: count // 2], low[: count // 2] = 256, 0  # the rest of less contrast
    noise = rng.random((count, *size, 3))
    noise = low + noise * (high - low)
    return np.concatenate([structured(size), noise.astype(np.uint8)])


def values_of(name, count):
    """Values over the whole range, both ends, the middle and zero among them."""
    operation = pil_ops.OPERATIONS[name]
    values = np.linspace(operation.low, operation.high, count - 2)
    middle = (operation.low + operation.high) / 2
    values = np.concatenate([values, [middle, max(operation.low, 0.0)]])
    return np.random.default_rng(2).permutation(values).astype(np.float32)


def places_of(count):
    places = np.random.default_rng(3).random((count, 2), np.float32)
    return np.concatenate([[[0, 0], [0, 0.5]], places[2:]]).astype(np.float32)


apply_batch = jax.jit(jax.vmap(pil_ops.apply))


@jax.jit
def apply_in_turns(*operands):
    """Each image by its operation alone; a batch goes through all of them."""
    return jax.lax.map(lambda operand: pil_ops.apply(*operand), operands)


def assert_equal_to_pillow(names, images, values, places, apply=apply_batch):
    index = np.array([NAMES.index(name) for name in names], np.int32)
    ours = np.asarray(apply(index, images, values, places))
    theirs = pillow(names, images, values, places)
    differing = np.any(ours != theirs, axis=(1, 2, 3))
    assert not differing.any(), sorted(set(np.array(names)[differing]))
    assert ours.dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_that_alone_may_be_drawn_is_pillows(name):
    """And so is Identity, which always may."""
    names = [name, "Identity"] * 20
    images = np.random.default_rng(4).integers(0, 256, (40, 9, 12, 3)).astype(np.uint8)
    values, places = values_of(name, 40), places_of(40)
    values[1::2] = 0
    only = jax.jit(jax.vmap(functools.partial(pil_ops.apply, names=[name])))
    index = np.array([NAMES.index(name) for name in names], np.int32)
    ours = only(index, images, values, places)
    np.testing.assert_array_equal(ours, pillow(names, images, values, places))


def test_operations_that_cannot_be_drawn_cost_nothing():
    def flops(names):
        only = functools.partial(pil_ops.apply, names=names)
        args = jnp.int32(0), np.zeros((32, 32, 3), np.uint8), 0.0, jnp.zeros(2)
        compiled: Any = jax.jit(only).lower(*args).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(["Brightness"]) < flops(NAMES) / 4


def test_operations_are_those_of_the_policies():
    expected = (
        "ShearX ShearY TranslateX TranslateY Rotate AutoContrast Invert Equalize "
        "Solarize Posterize Contrast Color Brightness Sharpness Cutout Identity"
    )
    assert " ".join(NAMES) == expected
    signed = [n for n, operation in pil_ops.OPERATIONS.items() if operation.is_signed]
    assert signed == ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(NAMES))
def test_operation_equals_pillow(name, size):
    images, values = images_of(size), values_of(name, NUM_IMAGES)
    places = places_of(NUM_IMAGES)
    operation = jax.jit(jax.vmap(pil_ops.OPERATIONS[name].apply))
    expected = pillow([name] * NUM_IMAGES, images, values, places)
    np.testing.assert_array_equal(operation(images, values, places), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_apply_equals_pillow_for_mixed_operations(size, channels):
    count = NUM_IMAGES
    images, places = images_of(size)[:count, ..., :channels], places_of(count)
    every = [values_of(name, count) for name in NAMES]
    for shift in range(len(NAMES)):  # Each image sees each operation.
        names = [NAMES[(i + shift) % len(NAMES)] for i in range(count)]
        values = [every[NAMES.index(name)][i] for i, name in enumerate(names)]
        assert_equal_to_pillow(names, images, np.array(values), places)


@pytest.mark.parametrize(
    ("size", "apply"),
    [((8, 8), apply_batch), ((224, 200), apply_batch), ((512, 512), apply_in_turns)],
)
def test_apply_equals_pillow_on_small_and_large_images(size, apply):
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (len(NAMES), *size, 3), dtype=np.uint8)
    for end in ("low", "high"):
        ends = [getattr(operation, end) for operation in pil_ops.OPERATIONS.values()]
        values = np.array(ends, np.float32)
        assert_equal_to_pillow(NAMES, images, values, places_of(len(NAMES)), apply)


def test_auto_contrast_equals_double_precision_for_all_extremes():
    low, high = np.triu_indices(256, 1)
    levels = np.clip(np.arange(256), low[:, None], high[:, None])
    images = levels.astype(np.uint8).reshape(-1, 16, 16, 1)
    scale = 255.0 / (high - low)[:, None]
    expected = (levels * scale + -low[:, None] * scale).astype(np.uint8)
    ours = np.asarray(jax.jit(jax.vmap(pil_ops.auto_contrast))(images))
    np.testing.assert_array_equal(ours.reshape(expected.shape), expected)


def test_rotation_equals_pillow_for_many_angles():
    y, x = np.mgrid[:33, :48]
    image = np.stack([x + 1, y + 1, x + y], -1).astype(np.uint8)  # pixels all differ
    angles = np.random.default_rng(5).uniform(-30, 30, 20_000).astype(np.float32)
    angles[:10] = [0, 30, -30, 1e-6, -1e-6, 90, -180, 270, 45, 400]
    rotate = jax.jit(jax.vmap(pil_ops.rotate, in_axes=(None, 0)))
    source = Image.fromarray(image)
    for part in np.split(angles, 10):
        expected = [np.asarray(source.rotate(float(angle))) for angle in part]
        np.testing.assert_array_equal(rotate(image, part), expected)


def test_blend_equals_pillow_for_many_factors():
    """All levels against black, and beyond the policies' range."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    rng = np.random.default_rng(6)
    factors = rng.uniform(-1, 3, 5000).astype(np.float32)
    factors[:4] = [0, 1, 0.99999994, 1.0000001]
    brightness = jax.jit(jax.vmap(pil_ops.brightness, in_axes=(None, 0)))
    enhancer = ImageEnhance.Brightness(Image.fromarray(levels[..., 0]))
    expected = [np.asarray(enhancer.enhance(float(v)))[..., None] for v in factors]
    np.testing.assert_array_equal(brightness(levels, factors), expected)


def test_values_out_of_range_equal_pillow_where_it_allows_them():
    names = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"] * 52
    values = np.linspace(-3, 3, NUM_IMAGES, dtype=np.float32)
    values[4::5] *= 120  # degrees
    images, places = images_of(SIZES[1]), places_of(NUM_IMAGES)
    assert_equal_to_pillow(names, images, values, places)


@pytest.mark.parametrize("size", SIZES)
def test_translations_near_half_pixels_equal_pillow(size):
    """Where a product rounded in float32 falls on the other side."""
    pixels = np.arange(130) // 5 - 12.5
    halves = np.concatenate([pixels / size[0], pixels / size[1]])
    shares = halves.astype(np.float32)
    toward = np.tile([-1, 0, 1], NUM_IMAGES)[:NUM_IMAGES].astype(np.float32)
    shares = np.where(toward, np.nextafter(shares, toward), shares)
    names = ["TranslateY"] * 130 + ["TranslateX"] * 130
    assert_equal_to_pillow(names, images_of(size), shares, places_of(NUM_IMAGES))


@pytest.mark.parametrize("value", [-1e30, 1e30])
def test_huge_translations_leave_nothing(value):
    for operation in (pil_ops.translate_x, pil_ops.translate_y):
        result = jax.jit(operation)(images_of(SIZES[1])[-1], value)
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("name", ["Cutout", "Equalize", "Rotate", "Sharpness"])
def test_without_jit_the_results_are_the_same(name):
    image, place, value = (
        images_of(SIZES[0])[-1],
        places_of(3)[2],
        values_of(name, 9)[4],
    )
    operation = pil_ops.OPERATIONS[name].apply
    expected = jax.jit(operation)(image, value, place)
    np.testing.assert_array_equal(operation(image, value, place), expected)


@pytest.mark.parametrize("dtype, shape", [("float32", (4, 4, 3)), ("uint8", (4, 4))])
def test_other_images_are_refused(dtype, shape):
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\]"):
        pil_ops.apply(jnp.int32(0), jnp.zeros(shape, dtype), 0.0, jnp.zeros(2))
