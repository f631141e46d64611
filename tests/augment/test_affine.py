"""Affine maps against scipy and dm-pix, their gradients against finite differences."""

import functools

import dm_pix
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.ndimage

from autodo_jax.augment import affine

SIX = ("rotate", "scale", "translate_x", "translate_y", "shear_x", "shear_y")


def images_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def random_magnitudes(names, batch, seed=1):
    noise = np.random.default_rng(seed).normal(size=(batch, len(names)))
    mean = np.array([affine.OPERATIONS[name].mean for name in names])
    unit = np.array([affine.OPERATIONS[name].range for name in names])
    return mean + 0.5 * unit * noise


@functools.partial(jax.jit, static_argnums=0)
def warp(names, images, magnitudes):
    return affine.resample(images, affine.compose(names, magnitudes, images.shape[1:3]))


def push_matrix(name, magnitude, size):
    """Where the content goes, in (x, y) about the centre: the textbook matrices."""
    height, width = size
    turn = np.deg2rad(magnitude)
    return {
        # Counter-clockwise as seen, with y downwards.
        "rotate": [[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0]],
        "scale": [[magnitude, 0, 0], [0, magnitude, 0]],
        "scale_x": [[magnitude, 0, 0], [0, 1, 0]],
        "scale_y": [[1, 0, 0], [0, magnitude, 0]],
        "translate_x": [[1, 0, magnitude * width], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, magnitude * height]],
        "shear_x": [[1, magnitude, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [magnitude, 1, 0]],
    }[name] + [[0, 0, 1]]


def scipy_warp(image, names, magnitudes):
    """The operations in their order, by one `scipy.ndimage.affine_transform`."""
    size = image.shape[:2]
    push = np.eye(3)
    for name, magnitude in zip(names, magnitudes, strict=True):
        push = np.array(push_matrix(name, magnitude, size)) @ push
    pull = np.linalg.inv(push)[[1, 0]][:, [1, 0, 2]]  # in (y, x)
    centre = (np.array(size) - 1) / 2
    offset = pull[:, 2] + centre - pull[:, :2] @ centre
    channels = [
        scipy.ndimage.affine_transform(
            image[..., c], pull[:, :2], offset, order=1, mode="nearest"
        )
        for c in range(image.shape[-1])
    ]
    return np.stack(channels, -1)


@pytest.mark.parametrize("shape", [(4, 9, 9, 3), (4, 8, 13, 1), (2, 1, 7, 2)])
@pytest.mark.parametrize("names", [SIX, SIX[::-1], ("scale_y", "scale_x", "rotate")])
def test_composed_warp_equals_scipy(x64, shape, names):
    images = images_of(shape)
    magnitudes = random_magnitudes(names, shape[0])
    warped = warp(names, images, magnitudes)
    for image, row, got in zip(images, magnitudes, warped, strict=True):
        np.testing.assert_allclose(got, scipy_warp(image, names, row), atol=1e-9)


@pytest.mark.parametrize("name", sorted(affine.OPERATIONS))
def test_each_operation_equals_scipy(x64, name):
    images = images_of((3, 10, 12, 2))
    magnitudes = random_magnitudes([name], 3, seed=2)
    warped = warp((name,), images, magnitudes)
    for image, row, got in zip(images, magnitudes, warped, strict=True):
        np.testing.assert_allclose(got, scipy_warp(image, [name], row), atol=1e-9)
        assert np.abs(got - image).max() > 0.05


def dm_pix_warp(image, pull_map):
    """The same map in dm-pix's coordinates: (y, x, channel) from the corner."""
    centre = (jnp.array(image.shape[:2]) - 1) / 2
    linear = pull_map[:2, :2][::-1, ::-1]
    offset = pull_map[:2, 2][::-1] + centre - linear @ centre
    matrix = jnp.eye(3).at[:2, :2].set(linear)
    return dm_pix.affine_transform(
        image, matrix, offset=jnp.append(offset, 0.0), mode="nearest"
    )


def test_warp_and_its_gradient_equal_dm_pix():
    images = jnp.asarray(images_of((8, 16, 16, 3)), jnp.float32)
    magnitudes = jnp.asarray(random_magnitudes(SIX, 8), jnp.float32)
    weights = jnp.asarray(images_of(images.shape, seed=3), jnp.float32)

    def total(magnitudes, resample):
        pull_map = affine.compose(SIX, magnitudes, (16, 16))
        return jnp.vdot(weights, resample(images, pull_map))

    both = jax.jit(jax.value_and_grad(total), static_argnums=1)
    ours = both(magnitudes, affine.resample)
    theirs = both(magnitudes, jax.vmap(dm_pix_warp))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    scale = np.abs(theirs[1]).max()
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4 * scale)


def test_gradient_equals_finite_differences(x64):
    images = jnp.asarray(images_of((2, 7, 7, 2)))
    magnitudes = jnp.asarray(random_magnitudes(SIX, 2, seed=5))
    weights = jnp.asarray(images_of(images.shape, seed=6))

    @jax.jit
    def total(images, magnitudes):
        return jnp.vdot(weights, warp(SIX, images, magnitudes))

    image_grad, grad = jax.jit(jax.grad(total, (0, 1)))(images, magnitudes)
    step = 1e-7
    for position in np.ndindex(magnitudes.shape):
        up = total(images, magnitudes.at[position].add(step))
        down = total(images, magnitudes.at[position].add(-step))
        np.testing.assert_allclose(
            grad[position], (up - down) / (2 * step), rtol=1e-5, atol=1e-6
        )
    # The warp is linear in the image.
    np.testing.assert_allclose(
        jnp.vdot(image_grad, images), total(images, magnitudes), rtol=1e-10
    )


def test_identity_returns_the_image_bit_for_bit():
    images = jnp.asarray(images_of((2, 8, 8, 1)), jnp.float32)
    mean = jnp.array([[affine.OPERATIONS[name].mean for name in SIX]] * 2)
    np.testing.assert_array_equal(warp(SIX, images, mean), images)


def test_zoom_far_below_zero_stays_finite():
    images = jnp.asarray(images_of((1, 8, 8, 1)), jnp.float32)

    def total(zoom):
        return warp(("scale",), images, zoom[None, None]).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(jnp.float32(-2))
    assert np.isfinite(value) and np.isfinite(grad)


def test_derivatives_of_both_orders_equal_finite_differences(x64):
    """In map and images; forward and reverse; away from pixels, where slopes jump."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((2, 5, 6, 3)))
    pull_map = jnp.asarray(
        [
            [[0.9, 0.1, 0.23], [-0.2, 0.8, 0.11], [0, 0, 1]],
            [[0.31, 0.02, -0.17], [0.07, 0.37, 0.29], [0, 0, 1]],
        ]
    )
    jax.test_util.check_grads(
        jax.jit(affine.resample), (images, pull_map), order=2, eps=1e-6
    )


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_the_platform_compiled_for_decides_on_the_barriers(platform):
    """Not the host's: they are for CPUs alone, whose loops shall share nothing."""
    images, pull_map = jnp.ones((2, 8, 8, 1)), jnp.eye(3)[None].repeat(2, 0)
    gradient = jax.jit(jax.grad(lambda m: affine.resample(images, m).sum()))
    text = gradient.trace(pull_map).lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in text) == (platform == "cpu")
