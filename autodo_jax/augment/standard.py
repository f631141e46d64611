"""Standard augmentation: random crops, flip and erasing, not learned (Sec. 5.1).

The random functions are pure functions of one image [H, W, C] in [0, 1]; map them over
keys and images.
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp


def random_crop(key: chex.PRNGKey, image: chex.Array, *, padding: int) -> chex.Array:
    """Shifts by up to `padding` pixels in each direction; zeros fill the gap."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    # Cheaper than `randint`, which splits its key and draws twice.
    shift = jax.random.uniform(key, (2,), jnp.float32) * (2 * padding + 1)
    return jax.lax.platform_dependent(
        padded,
        shift.astype(int),
        tpu=functools.partial(_choose_window, size=image.shape),
        default=functools.partial(_slice_window, size=image.shape),
    )


def _slice_window(
    padded: chex.Array, corner: chex.Array, *, size: tuple[int, ...]
) -> chex.Array:
    return jax.lax.dynamic_slice(padded, (*corner, 0), size)


def _choose_window(
    padded: chex.Array, corner: chex.Array, *, size: tuple[int, ...]
) -> chex.Array:
    """As `_slice_window`, which a TPU would run image by image."""
    for axis in range(2):
        windows = [
            jax.lax.slice_in_dim(padded, start, start + size[axis], axis=axis)
            for start in range(padded.shape[axis] - size[axis] + 1)
        ]
        start = jnp.clip(corner[axis], 0, len(windows) - 1)
        padded = jax.lax.select_n(start.astype(jnp.int32), *windows)
    return padded


def random_resized_crop(
    key: chex.PRNGKey,
    image: chex.Array,
    *,
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    num_tries: int = 10,
) -> chex.Array:
    """Cuts out a random box and resizes it to `size` pixels square (ImageNet).

    The first of `num_tries` boxes that fits is used, otherwise the largest box in the
    centre within the range of aspects. Bilinear, with antialiasing.

    Args:
      key: PRNG key.
      image: [H, W, C].
      size: of the result, [size, size, C].
      area: range of the box's share of the image, uniform.
      aspect: range of its width over its height, log-uniform.
      num_tries: boxes drawn.
    """
    height, width, channels = image.shape
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    shares = jax.random.uniform(area_key, (num_tries,), minval=area[0], maxval=area[1])
    ratios = _log_uniform(aspect_key, (num_tries,), aspect)
    pixels = shares * height * width
    rows = jnp.round(jnp.sqrt(pixels / ratios))
    columns = jnp.round(jnp.sqrt(pixels * ratios))
    fits = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)
    first = jnp.argmax(fits)
    found = fits[first]
    rows = jnp.where(found, rows[first], round(min(height, width / aspect[0])))
    columns = jnp.where(found, columns[first], round(min(width, height * aspect[1])))
    free = jnp.stack([height - rows, width - columns])
    place = jax.random.uniform(place_key, (2,))
    corner = jnp.where(found, jnp.floor(place * (free + 1)), jnp.floor(free / 2))
    scale = size / jnp.stack([rows, columns])
    return jax.image.scale_and_translate(
        image, (size, size, channels), (0, 1), scale, -corner * scale, "linear"
    )


def center_crop(images: chex.Array, *, size: int) -> chex.Array:
    """Returns the central `size` x `size` pixels of images [B, H, W, C].

    Raises:
      ValueError: images that are smaller.
    """
    height, width = images.shape[1:3]
    if min(height, width) < size:
        raise ValueError(
            f"images of {height}x{width} are smaller than augment.crop_size={size}"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def random_flip(key: chex.PRNGKey, image: chex.Array) -> chex.Array:
    """Mirrors the image horizontally with probability one half."""
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
    """Fills a random rectangle, cut to the sides of the image (random erasing).

    Args:
      key: PRNG key.
      image: [H, W, C].
      probability: of erasing anything.
      fill: [C], usually the data set's mean colour.
      area: range of the rectangle's share of the image, uniform.
      aspect: range of its height over its width, log-uniform.
    """
    height, width, _ = image.shape
    chosen_key, area_key, aspect_key, place_key = jax.random.split(key, 4)
    target = jax.random.uniform(area_key, minval=area[0], maxval=area[1])
    ratio = _log_uniform(aspect_key, (), aspect)
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


def _log_uniform(
    key: chex.PRNGKey, shape: tuple[int, ...], bounds: tuple[float, float]
) -> chex.Array:
    low, high = jnp.log(jnp.array(bounds))
    return jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))


def augment(
    keys: chex.PRNGKey,
    images: chex.Array,
    *,
    crop_size: int = 0,
    crop_padding: int = 0,
    flip: bool = False,
    erase_probability: float = 0.0,
    fill: Sequence[float],
) -> chex.Array:
    """Crops, flips and erases each image with its own key; zero turns a part off.

    Args:
      keys: [B] PRNG keys.
      images: [B, H, W, C] in [0, 1].
      crop_size: side of a random resized crop, instead of `crop_padding`.
      crop_padding: zero pixels added on each side before a crop to the original size.
      flip: mirrors half of the images.
      erase_probability: share of the images with an erased rectangle.
      fill: [C], the colour of the erased rectangles.
    """

    def one(key: chex.PRNGKey, image: chex.Array) -> chex.Array:
        crop_key, flip_key, erase_key = jax.random.split(key, 3)
        if crop_size:
            image = random_resized_crop(crop_key, image, size=crop_size)
        elif crop_padding:
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
