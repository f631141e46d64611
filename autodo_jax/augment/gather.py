"""Pixels and tables read by index, in the form that each platform runs well.

CPUs gather whole pixels from a flat list fastest. A TPU pads the last axis of an array
to 128 entries, 43 times the bytes of a list of RGB pixels; so there each channel is a
plane, read on its own. Both forms give the same values.
"""

import chex
import jax
import jax.numpy as jnp


def pixels(images: chex.Array, place: chex.Array) -> chex.Array:
    """Returns the pixels [..., C] at `place`.

    Args:
      images: [..., C], any axes of pixels.
      place: int32 [...] inside the flat list of all pixels.
    """

    def whole(images: chex.Array, place: chex.Array) -> chex.Array:
        flat = images.reshape(-1, images.shape[-1])
        return flat.at[place].get(mode="promise_in_bounds")

    def by_plane(images: chex.Array, place: chex.Array) -> chex.Array:
        channels = range(images.shape[-1])
        return jnp.stack([_from_plane(images, c, place) for c in channels], -1)

    return jax.lax.platform_dependent(images, place, tpu=by_plane, default=whole)


def channel(images: chex.Array, number: int, place: chex.Array) -> chex.Array:
    """Returns one channel of the pixels at `place`, [...], as `pixels` takes them."""

    def interleaved(images: chex.Array, place: chex.Array) -> chex.Array:
        at = place * images.shape[-1] + number
        return images.reshape(-1).at[at].get(mode="promise_in_bounds")

    def from_plane(images: chex.Array, place: chex.Array) -> chex.Array:
        return _from_plane(images, number, place)

    return jax.lax.platform_dependent(
        images, place, tpu=from_plane, default=interleaved
    )


def _from_plane(images: chex.Array, number: int, place: chex.Array) -> chex.Array:
    plane = images[..., number].reshape(-1)
    return plane.at[place].get(mode="promise_in_bounds")


def look_up(image: chex.Array, table: chex.Array) -> chex.Array:
    """Returns the entry of each pixel's level, like the image.

    Args:
      image: uint8 [H, W, C].
      table: [256, C], for each channel.
    """

    def interleaved(image: chex.Array, table: chex.Array) -> chex.Array:
        return table.reshape(-1).at[_entries(image)].get(mode="promise_in_bounds")

    def by_plane(image: chex.Array, table: chex.Array) -> chex.Array:
        levels = image.astype(jnp.int32)
        found = [
            table[:, c].at[levels[..., c]].get(mode="promise_in_bounds")
            for c in range(image.shape[2])
        ]
        return jnp.stack(found, -1)

    return jax.lax.platform_dependent(image, table, tpu=by_plane, default=interleaved)


def count_levels(image: chex.Array) -> chex.Array:
    """Returns the histogram of each channel, int32 [256, C], of uint8 [H, W, C]."""

    def scatter(image: chex.Array) -> chex.Array:
        counts = jnp.zeros(256 * image.shape[2], jnp.int32)
        at = _entries(image).reshape(-1)
        counts = counts.at[at].add(1, mode="promise_in_bounds")
        return counts.reshape(256, -1)

    def multiply(image: chex.Array) -> chex.Array:
        counts = [_plane_histogram(image[..., c]) for c in range(image.shape[2])]
        return jnp.stack(counts, -1)

    return jax.lax.platform_dependent(image, tpu=multiply, default=scatter)


def _entries(image: chex.Array) -> chex.Array:
    """Returns the position of each pixel and channel in a flat table [256, C]."""
    channels = image.shape[2]
    channel = jnp.arange(channels, dtype=jnp.int32)[None, None]
    return image.astype(jnp.int32) * channels + channel


def _plane_histogram(plane: chex.Array) -> chex.Array:
    """Returns how often each of 256 levels occurs: of [16, 16] pairs of two digits.

    As a product of matrices of zeros and ones, exact in half precision too, in sums of
    float32, up to 2**24 pixels.
    """
    level = plane.reshape(1, -1).astype(jnp.int32)
    digits = jnp.arange(16, dtype=jnp.int32)[:, None]
    high, low = (
        (digit == digits).astype(jnp.bfloat16) for digit in (level // 16, level % 16)
    )
    pairs = jnp.einsum("hp,lp->hl", high, low, preferred_element_type=jnp.float32)
    return pairs.reshape(-1).astype(jnp.int32)
