"""The forms for TPUs against numpy, and against the form for CPUs."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.augment import affine, gather, policies, standard

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
IMAGES = RNG.random((4, 9, 7, 3)).astype(np.float32)


@contextlib.contextmanager
def forms_for_tpus():
    """Runs on CPUs what TPUs run."""

    def choose(*args, default, tpu=None, **others):
        del others
        return (tpu or default)(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", choose)
        yield


def test_pixels_and_channels_are_those_at_their_places():
    place = RNG.integers(0, 9 * 7 * 4, (2, 5)).astype(np.int32)
    flat = IMAGES.reshape(-1, 3)
    with forms_for_tpus():
        found = gather.pixels(jnp.asarray(IMAGES), place)
        np.testing.assert_array_equal(found, flat[place])
        found = gather.channel(jnp.asarray(IMAGES), 1, place)
        np.testing.assert_array_equal(found, flat[place, 1])


def test_levels_are_counted_and_looked_up():
    table = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    counts = [np.bincount(LEVELS[..., c].ravel(), minlength=256) for c in range(3)]
    with forms_for_tpus():
        found = gather.count_levels(jnp.asarray(LEVELS))
        np.testing.assert_array_equal(found, np.stack(counts, -1))
        found = gather.look_up(jnp.asarray(LEVELS), jnp.asarray(table))
        np.testing.assert_array_equal(found, table[LEVELS, np.arange(3)])


def test_many_equal_levels_are_counted_exactly():
    """More than half precision can count."""
    with forms_for_tpus():
        counts = gather.count_levels(jnp.full((512, 512, 1), 255, jnp.uint8))
    assert counts[255, 0] == 512 * 512 and counts.sum() == 512 * 512


def both(function, *args):
    """Returns the results of the form for TPUs, and of the form for CPUs."""
    with forms_for_tpus():
        on_tpu = jax.jit(lambda *args: function(*args))(*args)
    return on_tpu, jax.jit(function)(*args)


def test_crops_are_the_same_windows():
    keys = jax.random.split(jax.random.key(0), 50)
    crop = functools.partial(standard.random_crop, image=IMAGES[0], padding=2)
    found, expected = both(jax.vmap(crop), keys)
    assert len(np.unique(np.asarray(expected), axis=0)) > 15
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["randaugment", "fast_autoaugment"])
def test_policies_change_the_same_pixels(policy):
    keys = jax.random.split(jax.random.key(1), 16)
    images = RNG.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    augment = functools.partial(
        policies.augment, policy=policy, table="cifar10", num_ops=2, magnitude=15.0
    )
    found, expected = both(augment, keys, images)
    assert (np.asarray(expected) != images).any(axis=(1, 2, 3)).sum() > 8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("pixels_at_once", [1, 2 * 9 * 7, 1 << 20])
def test_warps_and_their_gradients_agree(monkeypatch, pixels_at_once):
    """In one part, and in parts of a single image or of two."""
    monkeypatch.setattr(affine, "_PART", pixels_at_once)
    turned = np.eye(3) + RNG.normal(size=(4, 3, 3)) * [[0.2], [0.2], [0]]
    pull_map = turned.astype(np.float32)
    weights = RNG.random(IMAGES.shape).astype(np.float32)

    def total(images, pull_map):
        return jnp.vdot(weights, affine.resample(images, pull_map))

    gradients = jax.grad(total, (0, 1))
    found, expected = both(affine.resample, IMAGES, pull_map)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    found, expected = both(gradients, IMAGES, pull_map)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_maps_are_composed_in_full_precision():
    """Else TPUs round them to half precision, and pixels move by up to four."""
    compose = functools.partial(affine.compose, ("rotate", "scale"), size=(8, 8))
    text = str(jax.make_jaxpr(compose)(jnp.ones((2, 2))))
    (product,) = (line for line in text.splitlines() if "dot_general" in line)
    assert "HIGHEST" in text[text.index(product) :][:600]
