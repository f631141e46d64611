"""Standard augmentation: random crop, flip and erasing, not learned (Sec. 5.1).

Pure functions of one image [H, W, C] in [0, 1]; map them over keys and images.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp


def random_crop(key: chex.PRNGKey, image: chex.Array, *, padding: int) -> chex.Array:
    """Shifts by up to `padding` pixels in each direction, with zeros moving in."""
    height, width, channels = image.shape
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), (height, width, channels))


def random_flip(key: chex.PRNGKey, image: chex.Array) -> chex.Array:
    """Mirrors left and right with probability one half."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_erase(
    key: chex.PRNGKey,
    image: chex.Array,
    *,
    probability: float,
    fill: chex.Array,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> chex.Array:
    """Fills a random rectangle (random erasing).

    Args:
      key: PRNG key.
      image: [H, W, C].
      probability: of erasing at all.
      fill: [C], usually the data set's mean colour.
      area: range of the rectangle's share of the image, uniform.
      aspect: range of its height over its width, log-uniform.

    A rectangle that does not fit is cut to the image's sides.
    """
    height, width, _ = image.shape
    chosen_key, area_key, aspect_key, place_key = jax.random.split(key, 4)
    target = jax.random.uniform(area_key, minval=area[0], maxval=area[1])
    log_aspect = jnp.log(jnp.array(aspect))
    ratio = jnp.exp(
        jax.random.uniform(aspect_key, minval=log_aspect[0], maxval=log_aspect[1])
    )
    pixels = target * height * width
    rows = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, height)
    columns = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, width)
    place = jax.random.uniform(place_key, (2,))
    top = jnp.floor(place[0] * (height - rows + 1))
    left = jnp.floor(place[1] * (width - columns + 1))
    y, x = jnp.arange(height), jnp.arange(width)
    in_rows = (y >= top) & (y < top + rows)
    in_columns = (x >= left) & (x < left + columns)
    erased = jax.random.bernoulli(chosen_key, probability)
    inside = erased & in_rows[:, None, None] & in_columns[None, :, None]
    return jnp.where(inside, fill[None, None].astype(image.dtype), image)


def augment(
    keys: chex.PRNGKey,
    images: chex.Array,
    *,
    crop_padding: int = 0,
    flip: bool = False,
    erase_probability: float = 0.0,
    fill: Sequence[float],
) -> chex.Array:
    """Crops, flips and erases each image with its own key; zero means without.

    Args:
      keys: [B] PRNG keys.
      images: [B, H, W, C] in [0, 1].
      crop_padding: pixels of zeros around before the random crop to the same size.
      flip: mirror half of the images.
      erase_probability: share of the images with an erased rectangle.
      fill: [C], its colour.
    """

    def one(key, image):
        crop_key, flip_key, erase_key = jax.random.split(key, 3)
        if crop_padding:
            image = random_crop(crop_key, image, padding=crop_padding)
        if flip:
            image = random_flip(flip_key, image)
        if erase_probability:
            image = random_erase(
                erase_key,
                image,
                probability=erase_probability,
                fill=jnp.asarray(fill),
            )
        return image

    return jax.vmap(one)(keys, images)
