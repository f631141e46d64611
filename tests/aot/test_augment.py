"""Augmentation needs little more memory than its images, and no loop over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.augment import affine, policies, standard
from benchmarks import compiled


def key_of(mesh):
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(
        (), key.dtype, sharding=compiled.operand(mesh, ()).sharding
    )


def largest(program):
    return compiled.arrays(program)[0].padded_nbytes


@pytest.mark.parametrize("number", [32, pytest.param(256, marks=pytest.mark.long)])
def test_policies_need_half_a_gigabyte_for_256_images_of_256_pixels(chip, number):
    def augment(key, images):
        return policies.augment(
            jax.random.split(key, number),
            images,
            policy="randaugment_color",
            table="cifar10",
            num_ops=2,
            magnitude=15.0,
        )

    images = compiled.operand(chip, (number, 256, 256, 3), np.uint8)
    program = compiled.compile(augment, key_of(chip), images)
    assert largest(program) <= 0.5e9 * number / 256


def test_the_warp_and_its_derivative_need_little_memory(chip):
    """Together, for 256 images of 224 pixels, 154 MB."""

    def warp(images, pull_map, cotangent):
        values, pull_back = jax.vjp(
            functools.partial(affine.resample, images), pull_map
        )
        return values, pull_back(cotangent)

    images = compiled.operand(chip, (256, 224, 224, 3))
    pull_map = compiled.operand(chip, (256, 3, 3))
    program = compiled.compile(warp, images, pull_map, images)
    assert largest(program) <= 0.2e9
    assert compiled.memory(program).temp_size_in_bytes <= 0.6e9


def test_a_crop_is_no_loop_over_the_images(chip):
    def crop(key, images):
        keys = jax.random.split(key, len(images))
        return jax.vmap(functools.partial(standard.random_crop, padding=4))(
            keys, images
        )

    images = compiled.operand(chip, (256, 32, 32, 3))
    program = compiled.compile(crop, key_of(chip), images)
    assert "while" not in compiled.operations(program)
    assert compiled.cycles(program) < 400_000  # 2.95 M with a loop


def test_maps_are_composed_in_full_precision(chip):
    """A product in half precision is one pass of the matrix unit, this one six."""

    def compose(magnitudes, precision):
        maps = [
            affine.OPERATIONS[name].apply(magnitudes[:, a], (224, 224))
            for a, name in enumerate(("rotate", "scale"))
        ]
        return jnp.einsum("bij,bjk->bik", *maps, precision=precision)

    magnitudes = compiled.operand(chip, (256, 2))
    text = jax.jit(
        functools.partial(affine.compose, ("rotate", "scale"), size=(224, 224))
    ).lower(magnitudes)
    exact, rough = (
        jax.jit(functools.partial(compose, precision=p)).lower(magnitudes)
        for p in ("highest", None)
    )
    assert "HIGHEST" in text.as_text() and "HIGHEST" in exact.as_text()
    assert "HIGHEST" not in rough.as_text()
