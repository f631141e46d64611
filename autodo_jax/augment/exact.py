"""Pillow's results in double precision, from int32 and float32, exact to the bit.

TPUs and JAX's default have no doubles, and XLA may fuse a product with a sum, which
rounds once instead of twice. The results here depend on neither.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

ONE = 1 << 16  # Pillow's affine maps are in fixed point with 16 fractional bits.
SINE_STEPS = 32  # Entries of the sine table per degree.


def product(factor: chex.Numeric, whole: chex.Numeric) -> tuple[chex.Array, ...]:
    """Returns factor * whole in float32, correctly rounded, and the rounding error.

    `whole` has at most 12 significant bits. Both halves of the factor then have exact
    products, so it does not matter whether XLA fuses them with the additions.
    """
    factor = jnp.asarray(factor, jnp.float32)
    whole = jnp.asarray(whole, jnp.float32)
    bits = jax.lax.bitcast_convert_type(factor, jnp.int32)
    high = jax.lax.bitcast_convert_type(bits & ~0xFFF, jnp.float32)
    upper, lower = high * whole, (factor - high) * whole
    rounded = upper + lower
    return rounded, lower - (rounded - upper)


def floor_product(factor: chex.Numeric, whole: int) -> chex.Array:
    """Returns the floor of the exact product."""
    rounded, error = product(factor, whole)
    floor = jnp.floor(rounded)
    return (floor - ((rounded == floor) & (error < 0))).astype(jnp.int32)


def round_product(factor: chex.Numeric, whole: int) -> chex.Array:
    """Returns the exact product rounded to the nearest integer, half up."""
    return (floor_product(factor, 2 * whole) + 1) >> 1


def floor_divide(numerator: chex.Array, divisor: chex.Array) -> chex.Array:
    """Returns the floor of a quotient of integers >= 0; the numerator below 2**20.

    Faster than integer division. The added half keeps the quotient away from whole
    numbers by more than the error of a division, on accelerators too.
    """
    return jnp.floor((numerator + 0.5) / divisor).astype(jnp.int32)


@functools.cache
def sine_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns 2**16 sin at every 1/32 degree: the floors int32, the rests float32."""
    degrees = np.arange(360 * SINE_STEPS) / SINE_STEPS
    sine = np.round(np.sin(np.deg2rad(degrees)), 15) * ONE
    return np.floor(sine).astype(np.int32), (sine % 1).astype(np.float32)


@functools.cache
def stretch_exceptions() -> tuple[np.ndarray, np.ndarray]:
    """Finds where rounding makes Pillow's AutoContrast one level darker than exact.

    Returns:
      uint8 [256, 256], the kind of each pair of extremes, and bool [kinds, 256], the
      exact results that become one less where they are whole numbers.
    """
    darker = np.zeros((256, 256, 256), bool)  # lowest, highest, exact result
    for low in range(256):
        high, level = np.mgrid[low + 1 : 256, low:256]
        scale = 255.0 / (high - low)
        exact = 255 * (level - low) // (high - low)
        at = np.nonzero((level <= high) & (level * scale - low * scale < exact))
        darker[low, high[at], exact[at]] = True
    packed = np.packbits(darker.reshape(-1, 256), axis=1)
    kinds, kind = np.unique(packed, axis=0, return_inverse=True)
    darker_kinds = np.unpackbits(kinds, axis=1).astype(bool)
    return kind.reshape(256, 256).astype(np.uint8), darker_kinds
