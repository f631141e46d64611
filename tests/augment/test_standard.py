"""Standard augmentation against its definition in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax.augment import standard

KEYS = jax.random.split(jax.random.key(0), 2000)
IMAGE = jnp.arange(1.0, 6 * 5 * 2 + 1).reshape(6, 5, 2)


def test_crops_are_all_windows_of_the_padded_image_equally_often():
    crops = jax.vmap(lambda k: standard.random_crop(k, IMAGE, padding=1))(KEYS)
    padded = np.pad(np.asarray(IMAGE), ((1, 1), (1, 1), (0, 0)))
    counts = [
        int(np.sum(np.all(crops == padded[y : y + 6, x : x + 5][None], axis=(1, 2, 3))))
        for y in range(3)
        for x in range(3)
    ]
    assert sum(counts) == len(KEYS)
    expected = len(KEYS) / 9
    assert np.sum((np.array(counts) - expected) ** 2 / expected) < 20.1  # chi2(8), 1 %


def test_flips_mirror_half_of_the_images():
    flipped = jax.vmap(lambda k: standard.random_flip(k, IMAGE))(KEYS)
    mirrored = np.all(flipped == IMAGE[None, :, ::-1], axis=(1, 2, 3))
    same = np.all(flipped == IMAGE[None], axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 0.03


def test_erasing_fills_one_rectangle_in_its_range():
    image, fill = jnp.zeros((32, 32, 3)), jnp.array([1.0, 2.0, 3.0])
    erased = np.asarray(
        jax.vmap(lambda k: standard.random_erase(k, image, probability=0.5, fill=fill))(
            KEYS
        )
    )
    inside = erased[..., 0] != 0
    was_erased = inside.any(axis=(1, 2))
    assert abs(was_erased.mean() - 0.5) < 0.03
    np.testing.assert_array_equal(np.unique(erased[inside], axis=0), fill[None])
    heights = inside.any(axis=2).sum(axis=1)[was_erased]
    widths = inside.any(axis=1).sum(axis=1)[was_erased]
    areas = inside.sum(axis=(1, 2))[was_erased]
    np.testing.assert_array_equal(areas, heights * widths)  # a full rectangle
    assert areas.min() >= 0.01 * 1024 and areas.max() <= 0.36 * 1024
    ratio = heights / widths
    assert ratio.min() > 0.25 and ratio.max() < 4 and np.median(ratio) < 1.2


def test_nothing_asked_changes_nothing():
    images = jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 1)), jnp.float32)
    np.testing.assert_array_equal(
        standard.augment(KEYS[:3], images, fill=(0.0,)), images
    )
