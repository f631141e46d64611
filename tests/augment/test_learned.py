"""g_A as a whole: what gates do, in which order, with whose randomness."""

import functools
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.augment import affine, color, learned

OPEN, CLOSED = 50.0, -50.0
ALL = tuple(learned.OPERATIONS)


def images_of(batch=4, channels=3):
    values = np.random.default_rng(0).random((batch, 8, 8, channels))
    return jnp.asarray(values, jnp.float32)


def keys_of(batch=4):
    return jax.random.split(jax.random.key(0), batch)


def augmented(images, gate, operations, sigma_logit=0.0, keys=None):
    shape = (len(images), len(operations))
    return augment(
        keys_of(len(images)) if keys is None else keys,
        images,
        np.full(shape, gate, np.float32),
        np.full(shape, sigma_logit, np.float32),
        operations=operations,
    )


augment = functools.partial(jax.jit, static_argnames="operations")(learned.augment)


def test_closed_gates_leave_the_images_alone():
    images = images_of()
    np.testing.assert_array_equal(augmented(images, CLOSED, ALL), images)


@pytest.mark.parametrize("name", ALL)
def test_each_open_gate_changes_the_images(name):
    images = images_of()
    assert np.abs(augmented(images, OPEN, (name,)) - images).max() > 1e-2


def test_a_vanishing_standard_deviation_is_the_identity():
    images = images_of()
    unchanged = augmented(images, OPEN, ALL, sigma_logit=-60.0)
    np.testing.assert_allclose(unchanged, images, atol=1e-5)


def test_a_point_keeps_its_draw_in_another_batch():
    images, keys = images_of(), keys_of()
    whole = augmented(images, 0.0, ALL, keys=keys)
    part = augmented(images[2:], 0.0, ALL, keys=keys[2:])
    np.testing.assert_allclose(whole[2:], part, atol=1e-6)


def test_gradients_reach_gates_and_magnitudes_of_each_operation():
    images = images_of()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=images.shape))

    def total(logits):
        out = augment(keys_of(), images, *logits, operations=ALL)
        return jnp.vdot(weights.astype(out.dtype), out)

    start = (jnp.full((4, len(ALL)), 3.0), jnp.zeros((4, len(ALL))))
    gate_grad, magnitude_grad = jax.jit(jax.grad(total))(start)
    assert np.isfinite(gate_grad).all() and np.isfinite(magnitude_grad).all()
    assert (np.abs(gate_grad).max(axis=0) > 0).all()
    assert (np.abs(magnitude_grad).max(axis=0) > 0).all()


COLOR_TWINS: dict[str, Callable] = {
    "brightness": dm_pix.adjust_brightness,
    "contrast": dm_pix.adjust_contrast,
    "saturation": dm_pix.adjust_saturation,
    "hue": dm_pix.adjust_hue,
    "gamma": dm_pix.adjust_gamma,
}


@pytest.mark.parametrize("name", COLOR_TWINS)
def test_colour_operations_equal_dm_pix_and_stay_in_range(name):
    images, gates = images_of(), jnp.ones((4, 1))
    magnitudes = color.OPERATIONS[name].mean + jnp.array([[-0.1], [0.0], [0.2], [0.4]])
    got = color.apply([name], images, gates, magnitudes)
    for i in range(4):
        expected = COLOR_TWINS[name](images[i], magnitudes[i, 0])
        np.testing.assert_allclose(got[i], np.clip(expected, 0, 1), atol=1e-5)
    assert set(COLOR_TWINS) == set(color.OPERATIONS)


def test_the_papers_six_operations_are_affine():
    six = ["rotate", "scale", "translate_x", "translate_y", "shear_x", "shear_y"]
    ranges = [affine.OPERATIONS[name][1:] for name in six]
    assert ranges == [(0, 30), (1, 0.5), (0, 0.45), (0, 0.45), (0, 0.3), (0, 0.3)]
