"""The operations of Fast AutoAugment, DADA and RandAugment, bit for bit as in Pillow.

Images, given and returned, are uint8 [H, W, C], RGB (C = 3) or grey (C = 1), with sides
up to 512. An operation belongs to one of four stages: reading through an affine map, a
look-up table, a blend with a degenerate image, a filled square. `apply` takes the
operation as a traced index and runs each stage once. Stages of other operations change
nothing, so a batch of mixed operations costs four stages, not sixteen operations.

All numbers are int32 and float32, with traced values and fixed shapes; `exact` computes
the same pixels where Pillow uses double precision.
"""

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from autodo_jax.augment import exact, gather

_GRID = 256  # Positions per pixel for the centre of Cutout.
_CUTOUT_COLOUR = {3: (125, 123, 114), 1: (123,)}  # The second is the first's luma.


class Operation(NamedTuple):
    """An operation with its range in Fast AutoAugment and DADA."""

    apply: Callable  # image [H, W, C], value [], place [2] -> image [H, W, C]
    low: float  # value at level 0
    high: float  # value at level 1
    is_signed: bool  # a policy negates the value with probability one half


class _Stage(NamedTuple):
    run: Callable  # image, parameter -> image
    parameters: dict[str, Callable]  # by operation: image, value -> parameter
    choose: Callable = jax.lax.switch  # selects one of the parameters


OPERATIONS: dict[str, Operation] = {}


def _operation(
    stage: _Stage,
    name: str,
    levels: tuple[float, float] | None = None,
    *,
    is_signed: bool = False,
) -> Callable[[Callable], Callable[..., chex.Array]]:
    """Turns a function that returns a stage's parameter into an operation on images.

    Args:
      stage: the stage that the operation belongs to.
      name: its key in `OPERATIONS`.
      levels: the values at level 0 and 1, if it takes a value.
      is_signed: as in `Operation`.
    """

    def decorate(parameter: Callable) -> Callable[..., chex.Array]:
        @functools.wraps(parameter)
        def operation(
            image: chex.Array, *value: chex.Numeric, **named_value: chex.Numeric
        ) -> chex.Array:
            image = _checked(image)
            return stage.run(image, parameter(image, *value, **named_value))

        def given(value: chex.Numeric) -> tuple[chex.Numeric, ...]:
            return (value,) if levels else ()

        stage.parameters[name] = lambda image, value: parameter(image, *given(value))
        low, high = levels or (0.0, 1.0)
        OPERATIONS[name] = Operation(
            lambda image, value, place: operation(image, *given(value)),
            low,
            high,
            is_signed,
        )
        return operation

    return decorate


def _checked(image: chex.Array) -> chex.Array:
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"got an image of dtype {image.dtype} and shape {image.shape}; "
            "expected uint8 [H, W, 3] or [H, W, 1] (use jax.vmap for batches)"
        )
    return image


# Affine maps (a, b, c, d, e, f) in fixed point: the output pixel (x, y) shows the input
# pixel (a x + b y + c, d x + e y + f), less the fraction. Outside the image is black.


def _map(
    a: chex.Numeric = exact.ONE,
    b: chex.Numeric = 0,
    c: chex.Numeric = exact.ONE // 2,
    d: chex.Numeric = 0,
    e: chex.Numeric = exact.ONE,
    f: chex.Numeric = exact.ONE // 2,
) -> chex.Array:
    return jnp.stack([jnp.asarray(entry, jnp.int32) for entry in (a, b, c, d, e, f)])


def _read(image: chex.Array, pull_map: chex.Array) -> chex.Array:
    height, width, _ = image.shape
    a, b, c, d, e, f = pull_map
    y = jnp.arange(height, dtype=jnp.int32)[:, None]
    x = jnp.arange(width, dtype=jnp.int32)[None, :]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = jnp.where(inside, row * width + column, 0)
    return jnp.where(inside[..., None], gather.pixels(image, at), 0)


_READ = _Stage(_read, {"Identity": lambda image, value: _map()})


def _shear(slope: chex.Numeric) -> tuple[chex.Array, chex.Array]:
    slope = jnp.clip(slope, -32, 32)  # Larger ones overflow.
    offset = exact.ONE // 2 + exact.round_product(slope, exact.ONE // 2)
    return exact.round_product(slope, exact.ONE), offset


@_operation(_READ, "ShearX", (-0.3, 0.3), is_signed=True)
def shear_x(image: chex.Array, slope: chex.Numeric) -> chex.Array:
    """Moves row y left by slope * y; slope in [-0.3, 0.3], clipped at 32."""
    b, c = _shear(slope)
    return _map(b=b, c=c)


@_operation(_READ, "ShearY", (-0.3, 0.3), is_signed=True)
def shear_y(image: chex.Array, slope: chex.Numeric) -> chex.Array:
    """Moves column x up by slope * x; slope in [-0.3, 0.3], clipped at 32."""
    d, f = _shear(slope)
    return _map(d=d, f=f)


def _shift(share: chex.Numeric, side: int) -> chex.Array:
    return exact.ONE // 2 + exact.ONE * exact.round_product(
        jnp.clip(share, -1, 1), side
    )


@_operation(_READ, "TranslateX", (-0.45, 0.45), is_signed=True)
def translate_x(image: chex.Array, share: chex.Numeric) -> chex.Array:
    """Moves left by a share of the width, in whole pixels; share in [-1, 1]."""
    return _map(c=_shift(share, image.shape[1]))


@_operation(_READ, "TranslateY", (-0.45, 0.45), is_signed=True)
def translate_y(image: chex.Array, share: chex.Numeric) -> chex.Array:
    """Moves up by a share of the height, in whole pixels; share in [-1, 1]."""
    return _map(f=_shift(share, image.shape[0]))


@_operation(_READ, "Rotate", (-30.0, 30.0), is_signed=True)
def rotate(image: chex.Array, degrees: chex.Numeric) -> chex.Array:
    """Turns counter-clockwise about the centre; degrees in [-360, 360]."""
    # Rounding to 16 fractional bits needs more of sine and cosine than float32 has:
    # whole multiples of 2**-16 are kept separate from the rest, a Taylor series around
    # the nearest angle of the table. Its error is near 1e-6 of these units.
    degrees = jnp.asarray(degrees, jnp.float32)
    nearest = jnp.round(degrees * exact.SINE_STEPS)
    small = jnp.deg2rad(degrees - nearest / exact.SINE_STEPS)
    floors, rests = map(jnp.asarray, exact.sine_table())
    at = nearest.astype(jnp.int32) % len(floors)
    at_cos = (at + 90 * exact.SINE_STEPS) % len(floors)
    whole_sin, whole_cos = floors[at], floors[at_cos]
    sin, cos = whole_sin + rests[at], whole_cos + rests[at_cos]
    rest_sin = rests[at] + small * (cos - small / 2 * sin)
    rest_cos = rests[at_cos] - small * (sin + small / 2 * cos)

    def half(constant: int, cosines: int, sines: int) -> chex.Array:
        """(constant + cosines * cos + sines * sin) / 2, rounded half up."""
        whole = constant * exact.ONE + cosines * whole_cos + sines * whole_sin
        rest = jnp.floor(cosines * rest_cos + sines * rest_sin)
        return (whole + rest.astype(jnp.int32) + 1) >> 1

    height, width, _ = image.shape
    c = half(width, 1 - width, height - 1)
    f = half(height, 1 - height, 1 - width)
    return _map(half(0, 2, 0), half(0, 0, -2), c, half(0, 0, 2), half(0, 2, 0), f)


# Look-up tables, uint8 [256, 1, C]: the result for an image of all levels.


def _all_levels(image: chex.Array) -> chex.Array:
    levels = jnp.arange(256, dtype=jnp.uint8)[:, None, None]
    return jnp.broadcast_to(levels, (256, 1, image.shape[2]))


def _look_up(image: chex.Array, table: chex.Array) -> chex.Array:
    return gather.look_up(image, table[:, 0])


def _choose_table(
    index: chex.Array, tables: list[Callable], *args: chex.Array
) -> chex.Array:
    every = jnp.stack([table(*args) for table in tables])
    is_chosen = jnp.arange(len(tables)) == index
    # A maximum, because XLA on CPUs does not fuse it with the look-up: fused, the
    # tables would be computed again for each pixel.
    return jnp.where(is_chosen[:, None, None, None], every, 0).max(0)


_LOOK_UP = _Stage(
    _look_up, {"Identity": lambda image, value: _all_levels(image)}, _choose_table
)


@_operation(_LOOK_UP, "AutoContrast")
def auto_contrast(image: chex.Array) -> chex.Array:
    """Stretches the range of each channel to 0 .. 255."""
    levels = _all_levels(image)
    low = image.min((0, 1), keepdims=True).astype(jnp.int32)
    high = image.max((0, 1), keepdims=True).astype(jnp.int32)
    scaled, span = 255 * jnp.maximum(levels - low, 0), jnp.maximum(high - low, 1)
    stretched = jnp.minimum(exact.floor_divide(scaled, span), 255)
    kind, darker = map(jnp.asarray, exact.stretch_exceptions())
    is_darker = (stretched * span == scaled) & darker[kind[low, high], stretched]
    return jnp.where(high > low, stretched - is_darker, levels).astype(jnp.uint8)


@_operation(_LOOK_UP, "Invert")
def invert(image: chex.Array) -> chex.Array:
    """Turns level i into 255 - i."""
    return 255 - _all_levels(image)


@_operation(_LOOK_UP, "Equalize")
def equalize(image: chex.Array) -> chex.Array:
    """Makes the histogram of each channel as even as a look-up table can."""
    levels = _all_levels(image)
    counts = gather.count_levels(image)[:, None]
    below = jnp.cumsum(counts, axis=0, dtype=jnp.int32) - counts
    is_lighter = image < image.max((0, 1), keepdims=True)
    step = is_lighter.sum((0, 1), keepdims=True, dtype=jnp.int32) // 255
    even = jnp.minimum(exact.floor_divide(step // 2 + below, jnp.maximum(step, 1)), 255)
    return jnp.where(step > 0, even, levels).astype(jnp.uint8)


@_operation(_LOOK_UP, "Solarize", (0.0, 256.0))
def solarize(image: chex.Array, threshold: chex.Numeric) -> chex.Array:
    """Inverts the levels at or above the threshold: 0 inverts all, 256 none."""
    levels = _all_levels(image)
    return jnp.where(levels < jnp.float32(threshold), levels, 255 - levels)


@_operation(_LOOK_UP, "Posterize", (4.0, 8.0))
def posterize(image: chex.Array, bits: chex.Numeric) -> chex.Array:
    """Keeps the highest int(bits) bits of each level; bits in [1, 8]."""
    dropped = 8 - jnp.clip(bits, 1, 8).astype(jnp.uint8)
    return _all_levels(image) >> dropped << dropped


# Blends (degenerate image, factor): factor 0 gives the degenerate image, 1 the image.


def _blend(image: chex.Array, blend: tuple[chex.Array, chex.Numeric]) -> chex.Array:
    degenerate, factor = blend
    start = degenerate.astype(jnp.int32)
    step, _ = exact.product(factor, image.astype(jnp.int32) - start)
    return jnp.clip(start + step, 0, 255).astype(jnp.uint8)


_BLEND = _Stage(_blend, {"Identity": lambda image, value: (image, jnp.float32(1))})
_Blend = tuple[chex.Array, chex.Array]


def _luma(image: chex.Array) -> chex.Array:
    if image.shape[2] == 1:
        return image
    red, green, blue = jnp.split(image.astype(jnp.int32), 3, axis=2)
    luma = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
    return jnp.broadcast_to(luma, image.shape).astype(jnp.uint8)


@_operation(_BLEND, "Contrast", (0.1, 1.9))
def contrast(image: chex.Array, factor: chex.Numeric) -> _Blend:
    """Blends with the mean luma; factor in [0.1, 1.9], 1 changes nothing."""
    luma = _luma(image)[..., 0]
    mean = (2 * luma.sum(dtype=jnp.int32) + luma.size) // (2 * luma.size)
    return jnp.full_like(image, mean), jnp.float32(factor)


@_operation(_BLEND, "Color", (0.1, 1.9))
def color(image: chex.Array, factor: chex.Numeric) -> _Blend:
    """Blends with each pixel's luma; factor in [0.1, 1.9], 1 changes nothing."""
    return _luma(image), jnp.float32(factor)


@_operation(_BLEND, "Brightness", (0.1, 1.9))
def brightness(image: chex.Array, factor: chex.Numeric) -> _Blend:
    """Blends with black; factor in [0.1, 1.9], 1 changes nothing."""
    return jnp.zeros_like(image), jnp.float32(factor)


@_operation(_BLEND, "Sharpness", (0.1, 1.9))
def sharpness(image: chex.Array, factor: chex.Numeric) -> _Blend:
    """Blends with a smoothed image; the outermost pixels never change.

    factor in [0.1, 1.9], 1 changes nothing.
    """
    levels = image.astype(jnp.int32)
    columns = levels[:-2] + levels[1:-1] + levels[2:]
    total = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    smooth = (2 * (total + 4 * levels[1:-1, 1:-1]) + 13) // 26
    smoothed = image.at[1:-1, 1:-1].set(smooth.astype(jnp.uint8))
    return smoothed, jnp.float32(factor)


def cutout(image: chex.Array, share: chex.Numeric, place: chex.Array) -> chex.Array:
    """Fills a square with (125, 123, 114), or on grey images with its luma.

    Its side is s = share * W. Columns from x = int(max(0, cx - s / 2)) to int(x + s)
    are filled, and rows likewise, within the image.

    Args:
      image: uint8 [H, W, C].
      share: of the width, in [0, 0.2]; zero or less changes nothing.
      place: [2] in [0, 1); the centre is cx = W - place[0] (W - 1) and
        cy = H - place[1] (H - 1), rounded up to multiples of 1/256 pixel.
    """
    image = _checked(image)
    height, width, channels = image.shape
    share = jnp.clip(share, 0, 1)
    side = exact.floor_product(share, width)
    # On the grid, rounded up.
    half_side = -exact.floor_product(-share, width * _GRID // 2)

    def inside(length: int, offset: chex.Array) -> chex.Array:
        centre = length * _GRID - exact.floor_product(offset, (length - 1) * _GRID)
        start = jnp.maximum(centre - half_side, 0) // _GRID
        position = jnp.arange(length, dtype=jnp.int32)
        return (position >= start) & (position <= start + side)

    filled = inside(height, place[1])[:, None] & inside(width, place[0])[None, :]
    colour = jnp.array(_CUTOUT_COLOUR[channels], jnp.uint8)
    return jnp.where((filled & (share > 0))[..., None], colour[None, None], image)


OPERATIONS["Cutout"] = Operation(cutout, 0.0, 0.2, False)
OPERATIONS["Identity"] = Operation(lambda image, value, place: image, 0.0, 1.0, False)


def apply(
    index: chex.Array,
    image: chex.Array,
    value: chex.Numeric,
    place: chex.Array,
    *,
    names: Collection[str] = frozenset(OPERATIONS),
) -> chex.Array:
    """Returns the image under the operation at position `index` of `OPERATIONS`.

    Args:
      index: int32 [].
      image: uint8 [H, W, C], C = 3 or 1.
      value: float32 [] in the operation's unit, with its sign.
      place: float32 [2] in [0, 1), where Cutout has its centre.
      names: operations that `index` may select, besides Identity; no others are
        computed.

    Raises:
      ValueError: the image has another dtype or shape.
    """
    image, value = _checked(image), jnp.asarray(value, jnp.float32)
    result = image
    for stage in (_READ, _LOOK_UP, _BLEND):
        own = [name for name in stage.parameters if name in {*names, "Identity"}]
        if own == ["Identity"]:
            continue
        branch = [own.index(name if name in own else "Identity") for name in OPERATIONS]
        # Computed from the original image, which at most one stage changes. From the
        # result so far, XLA would fuse the gathers into each of their many uses.
        parameter = stage.choose(
            jnp.array(branch, jnp.int32)[index],
            [stage.parameters[name] for name in own],
            image,
            value,
        )
        result = stage.run(result, parameter)
    if "Cutout" not in names:
        return result
    is_cutout = index == list(OPERATIONS).index("Cutout")
    return cutout(result, jnp.where(is_cutout, value, 0), place)
