"""Standard augmentation against its definition in numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from autodo_jax.augment import standard

KEYS = jax.random.split(jax.random.key(0), 2000)
IMAGE = jnp.arange(1.0, 6 * 5 * 2 + 1).reshape(6, 5, 2)


def test_crops_are_all_windows_of_the_padded_image_equally_often():
    crop = jax.jit(jax.vmap(lambda k: standard.random_crop(k, IMAGE, padding=1)))
    crops = crop(KEYS)
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
    flipped = jax.jit(jax.vmap(lambda k: standard.random_flip(k, IMAGE)))(KEYS)
    mirrored = np.all(flipped == IMAGE[None, :, ::-1], axis=(1, 2, 3))
    same = np.all(flipped == IMAGE[None], axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 0.03


def test_erasing_fills_one_rectangle_in_its_range():
    image, fill = jnp.zeros((32, 32, 3)), jnp.array([1.0, 2.0, 3.0])
    erase = partial(standard.random_erase, image=image, probability=0.5, fill=fill)
    erased = np.asarray(jax.jit(jax.vmap(erase))(KEYS))
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


def ramp(height, width):
    """An image whose pixels say where they are: channels (y, x)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return jnp.stack([y, x], -1)


def boxes(keys, shape, **options):
    """[K, 4]: (top, left, rows, columns) of the boxes that the keys draw.

    Enlarged, a ramp is a ramp away from its border: its slope tells the box.
    """
    size = 128
    crop = partial(standard.random_resized_crop, image=ramp(*shape), size=size)
    crops = np.asarray(jax.jit(jax.vmap(partial(crop, **options)))(keys))
    near, far = crops[:, 32, 32], crops[:, 96, 96]
    extent = (far - near) / 64 * size
    corner = near + 0.5 - 32.5 * extent / size
    return np.concatenate([corner, extent], axis=1)


@pytest.mark.parametrize("shape", [(48, 64), (40, 40)])
def test_resized_crops_are_boxes_in_their_ranges(shape):
    found = boxes(KEYS[:600], shape)
    np.testing.assert_allclose(found, np.round(found), atol=5e-3)
    corner, extent = np.round(found[:, :2]), np.round(found[:, 2:])
    assert corner.min() == 0 and (corner + extent <= shape).all()
    area = extent.prod(axis=1) / np.prod(shape)
    aspect = extent[:, 1] / extent[:, 0]
    assert 0.06 < area.min() < 0.12 and area.max() > 0.75
    assert 0.68 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.45
    # Small boxes nearly always fit, so among them shares and aspects are as drawn.
    small = area < 0.3
    assert abs(area[small].mean() - (0.08 + 0.3) / 2) < 0.015
    assert abs(np.log(aspect[small]).mean()) < 0.04


def test_resized_crops_read_as_pillow_resizes_a_box():
    image = np.random.default_rng(0).random((40, 56)).astype(np.float32)
    source = PIL.Image.fromarray(image)
    keys = KEYS[:50]
    resize = partial(standard.random_resized_crop, image=image[..., None], size=16)
    crops = jax.jit(jax.vmap(resize))(keys)
    for crop, box in zip(crops, np.round(boxes(keys, (40, 56))), strict=True):
        (top, left), extent = box[:2], box[2:]
        expected = source.resize(
            (16, 16),
            PIL.Image.Resampling.BILINEAR,
            box=(left, top, left + extent[1], top + extent[0]),
        )
        np.testing.assert_allclose(crop[..., 0], np.asarray(expected), atol=1e-4)


def test_boxes_that_never_fit_give_the_largest_in_the_centre():
    (box,) = np.round(boxes(KEYS[:1], (8, 64), area=(1, 1)))
    np.testing.assert_array_equal(box, [0, 26, 8, 11])


def test_the_centre_is_cut_out_of_large_images_only():
    images = jnp.arange(2 * 5 * 6 * 1).reshape(2, 5, 6, 1)
    np.testing.assert_array_equal(
        standard.center_crop(images, size=3), images[:, 1:4, 1:4]
    )
    with pytest.raises(ValueError, match=r"5x6 are smaller than augment.crop_size=6"):
        standard.center_crop(images, size=6)
