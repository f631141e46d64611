"""Tests of `autodo_jax.models`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def shapes_of(model, *image_shape) -> dict[str, Any]:
    """The variables' shapes and dtypes; computes nothing."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


def num_params(model, *image_shape) -> int:
    shapes = shapes_of(model, *image_shape)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def random_variables(model, *image_shape) -> dict[str, Any]:
    """Draws every variable, so that no scale, bias or statistic is trivial."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        elif path[-1].key in ("bias", "mean"):
            value = rng.normal(0, 0.2, leaf.shape)
        else:
            fan_in = leaf.size / leaf.shape[-1]
            value = rng.normal(0, np.sqrt(2 / fan_in), leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, *image_shape))
