"""The affine operations of g_A, composed into one map and resampled once (Eq. 8).

Images are float arrays [B, H, W, C] of any range. A map is a *pull* map, as in
`dm_pix.affine_transform`: a matrix [B, 3, 3] that takes homogeneous output coordinates
(x to the right, y downwards, in pixels, origin at the image centre) to the input
coordinates that are read there. Outside the image, its border is replicated.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from autodo_jax.augment import gather

# A zoom of zero or less has no inverse; Gaussian magnitudes reach it in their tail.
_MIN_ZOOM = 0.1
_EXACT = jax.lax.Precision.HIGHEST
_PART = 1 << 20  # pixels that a TPU reads at once, each with some 100 bytes of indices


class Operation(NamedTuple):
    """An operation with the prior of its magnitude (Sec. 4.1)."""

    apply: Callable  # affine: magnitude [B], (H, W) -> pull map [B, 3, 3]
    mean: float  # mu: the magnitude at which the operation is the identity
    range: float  # rng: unit of the standard deviation of the magnitude


def _matrix(rows: Sequence[Sequence[chex.Numeric]], like: chex.Array) -> chex.Array:
    entries = [[jnp.broadcast_to(entry, like.shape) for entry in row] for row in rows]
    return jnp.stack([jnp.stack(row, -1) for row in entries], -2).astype(like.dtype)


def _rotate(degrees: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Turns the content counter-clockwise."""
    del size
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], degrees)


def _scale(zoom: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Enlarges the content `zoom` times in both directions."""
    del size
    shrink = 1 / jnp.maximum(zoom, _MIN_ZOOM)
    return _matrix([[shrink, 0, 0], [0, shrink, 0], [0, 0, 1]], zoom)


def _scale_x(zoom: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Enlarges the content `zoom` times in width."""
    del size
    shrink = 1 / jnp.maximum(zoom, _MIN_ZOOM)
    return _matrix([[shrink, 0, 0], [0, 1, 0], [0, 0, 1]], zoom)


def _scale_y(zoom: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Enlarges the content `zoom` times in height."""
    del size
    shrink = 1 / jnp.maximum(zoom, _MIN_ZOOM)
    return _matrix([[1, 0, 0], [0, shrink, 0], [0, 0, 1]], zoom)


def _translate_x(share: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Moves the content right by `share` of the width."""
    return _matrix([[1, 0, -share * size[1]], [0, 1, 0], [0, 0, 1]], share)


def _translate_y(share: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Moves the content down by `share` of the height."""
    return _matrix([[1, 0, 0], [0, 1, -share * size[0]], [0, 0, 1]], share)


def _shear_x(slope: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Moves each row of the content right by `slope` pixels per pixel downwards."""
    del size
    return _matrix([[1, -slope, 0], [0, 1, 0], [0, 0, 1]], slope)


def _shear_y(slope: chex.Array, size: tuple[int, int]) -> chex.Array:
    """Moves each column of the content down by `slope` pixels per pixel rightwards."""
    del size
    return _matrix([[1, 0, 0], [-slope, 1, 0], [0, 0, 1]], slope)


OPERATIONS = {
    "rotate": Operation(_rotate, 0.0, 30.0),
    "scale": Operation(_scale, 1.0, 0.5),
    "translate_x": Operation(_translate_x, 0.0, 0.45),
    "translate_y": Operation(_translate_y, 0.0, 0.45),
    "shear_x": Operation(_shear_x, 0.0, 0.3),
    "shear_y": Operation(_shear_y, 0.0, 0.3),
    "scale_x": Operation(_scale_x, 1.0, 0.5),
    "scale_y": Operation(_scale_y, 1.0, 0.5),
}


def compose(
    names: Sequence[str], magnitudes: chex.Array, size: tuple[int, int]
) -> chex.Array:
    """Returns the pull map [B, 3, 3] of the operations applied in the order of `names`.

    Args:
      names: keys of `OPERATIONS`, at least one.
      magnitudes: [B, len(names)] in degrees, factors, shares of the side, slopes.
      size: (H, W) of the images.
    """
    maps = [
        OPERATIONS[name].apply(magnitudes[:, a], size) for a, name in enumerate(names)
    ]
    # The last operation is nearest to the output, so its pull map acts first.
    total = maps[0]
    for pull_map in maps[1:]:
        # TPUs and GPUs would multiply in half precision, which moves pixels.
        total = jnp.einsum("bij,bjk->bik", total, pull_map, precision=_EXACT)
    return total


def resample(images: chex.Array, pull_map: chex.Array) -> chex.Array:
    """Reads `images` through `pull_map` with bilinear interpolation.

    Differentiable in the map (almost everywhere) and in the images.

    Args:
      images: [B, H, W, C].
      pull_map: [B, 3, 3], affine (last row 0, 0, 1).
    """
    return jax.lax.platform_dependent(
        images, pull_map, tpu=_resample_in_parts, default=_resample
    )


def _resample_in_parts(images: chex.Array, pull_map: chex.Array) -> chex.Array:
    """As `_resample`, a part of the images after the other, to bound the memory."""
    number, height, width = images.shape[:3]
    sizes = [n for n in range(1, number + 1) if number % n == 0]
    size = max([n for n in sizes if n * height * width <= _PART], default=1)
    if size == number:
        return _resample(images, pull_map)
    # A backward pass keeps nothing of a part but the images and the map.
    read = jax.checkpoint(_resample)
    parts = (x.reshape(-1, size, *x.shape[1:]) for x in (images, pull_map))
    return jax.lax.map(lambda part: read(*part), tuple(parts)).reshape(images.shape)


def _resample(images: chex.Array, pull_map: chex.Array) -> chex.Array:
    height, width = images.shape[1:3]
    y = jnp.arange(height, dtype=pull_map.dtype) - (height - 1) / 2
    x = jnp.arange(width, dtype=pull_map.dtype) - (width - 1) / 2

    def coordinate(row: int, extent: int) -> chex.Array:
        along_x = pull_map[:, row, 0, None, None] * x[None, None, :]
        along_y = pull_map[:, row, 1, None, None] * y[None, :, None]
        at = along_x + along_y + pull_map[:, row, 2, None, None] + (extent - 1) / 2
        return jnp.clip(at, 0, extent - 1)  # Replicates the border.

    return _read(images, coordinate(0, width), coordinate(1, height))


@jax.custom_jvp
def _read(images: chex.Array, x: chex.Array, y: chex.Array) -> chex.Array:
    """Interpolates images [B, H, W, C] at pixels x, y [B, H', W'] inside them."""
    places, across, down = _neighbours(images, x, y)
    across, down = across[..., None], down[..., None]
    (top_left, top_right), (bottom_left, bottom_right) = (
        [gather.pixels(images, place) for place in row] for row in places
    )
    # A fraction of 0 returns the pixel itself, bit for bit.
    top = top_left + across * (top_right - top_left)
    return top + down * (bottom_left + across * (bottom_right - bottom_left) - top)


@functools.partial(_read.defjvp, symbolic_zeros=True)
def _read_jvp(primals: tuple, tangents: tuple) -> tuple[chex.Array, chex.Array]:
    """Computes the derivative in each coordinate in one loop over the pixels.

    The derivative that JAX generates passes arrays of all four neighbours between its
    loops, and takes several times as long on CPUs.
    """
    images, x, y = primals
    of_images, of_x, of_y = tangents
    values = _read(images, x, y)
    if isinstance(of_x, SymbolicZero):
        tangent = jnp.zeros_like(values)
    else:
        of_x, of_y = _apart(of_x, of_y)  # Computes their cotangents once, too.
        by_x = _slopes(images, *_apart(x, y), along="x")
        by_y = _slopes(images, *_apart(*_apart(x, y)), along="y")
        tangent = jnp.stack(
            [u * of_x + v * of_y for u, v in zip(by_x, by_y, strict=True)], -1
        )
    if not isinstance(of_images, SymbolicZero):
        tangent = tangent + _read(of_images, x, y)
    return values, tangent


def _slopes(
    images: chex.Array, x: chex.Array, y: chex.Array, *, along: str
) -> list[chex.Array]:
    """Returns the derivatives of `_read` in x or y, [B, H', W'] for each channel."""
    places, across, between = _neighbours(images, x, y)
    if along == "y":
        places, between = [[*column] for column in zip(*places, strict=True)], across

    def slope(channel: int) -> chex.Array:
        first, second = (
            gather.channel(images, channel, high) - gather.channel(images, channel, low)
            for low, high in places
        )
        return first + between * (second - first)

    return [slope(channel) for channel in range(images.shape[3])]


def _neighbours(
    images: chex.Array, x: chex.Array, y: chex.Array
) -> tuple[list[list[chex.Array]], chex.Array, chex.Array]:
    """Returns places in the flat list of all pixels, and the fractions along x and y.

    Places are int32 [B, H', W'], [[top left, top right], [bottom left, bottom right]].
    """
    number, height, width = images.shape[:3]
    first = jnp.arange(number, dtype=jnp.int32)[:, None, None] * (height * width)

    def both(at: chex.Array, extent: int) -> tuple[list[chex.Array], chex.Array]:
        floor = jnp.floor(at)
        low = floor.astype(jnp.int32)
        return [low, jnp.minimum(low + 1, extent - 1)], at - floor

    columns, across = both(x, width)
    rows, down = both(y, height)
    places = [[first + row * width + column for column in columns] for row in rows]
    return places, across, down


def _apart(*arrays: chex.Array) -> tuple[chex.Array, ...]:
    """Keeps XLA on CPUs from sharing work between loops.

    There it does not fuse loops into one with several outputs, so it would store what
    they share.
    """
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *given: jax.lax.optimization_barrier(given),
        default=lambda *given: given,
    )
