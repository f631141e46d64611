"""Hyperparameters that cannot matter are refused; those that merely seem so pass."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import curvature, hypergrad, hypergrad_root, solvers

PARAMS = jnp.array([1.0, 2.0])
HPARAMS = jnp.array([0.5, -1.0])


def inner(w, h):
    return jnp.sum((w - h) ** 2)


def outer(w, h):
    del h
    return jnp.sum(w**2)


def run(inner, **options):
    return jax.eval_shape(lambda: hypergrad(inner, outer, PARAMS, HPARAMS, **options))


def ignored(w, h):
    del h
    return jnp.sum(w**2)


@pytest.mark.parametrize(
    "inner",
    [
        ignored,
        jax.jit(ignored),
        jax.checkpoint(ignored),
        lambda w, h: ignored(w, h) + jnp.sum(h),
        lambda w, h: jnp.sum((w - jax.lax.stop_gradient(h)) ** 2),
    ],
    ids=["ignored", "jit", "checkpoint", "not coupled", "stop_gradient"],
)
@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse"])
def test_hyperparameters_without_influence_are_refused(inner, mode):
    """Zeros by the structure of the program are the commonest slip."""
    with pytest.raises(ValueError, match="`hparams` has no influence"):
        run(inner, curvature=curvature.hessian(mode))


def test_a_root_without_hyperparameters_is_refused():
    with pytest.raises(ValueError, match="`hparams` has no influence"):
        hypergrad_root(lambda w, h: w, outer, PARAMS, HPARAMS)


@jax.custom_vjp
def scaled(x):
    return 2 * x


scaled.defvjp(lambda x: (2 * x, None), lambda _, ct: (2 * ct,))


def scanned(w, h):
    def step(total, pair):
        return total + (pair[0] - pair[1]) ** 2, None

    return jax.lax.scan(step, 0.0, (w, h))[0]


@pytest.mark.parametrize(
    "inner",
    [
        jax.jit(inner),
        jax.checkpoint(inner),
        scanned,
        lambda w, h: jax.lax.cond(w[0] > 0, inner, lambda w, h: 0.0, w, h),
        lambda w, h: jnp.sum(jax.vmap(lambda a, b: (a - b) ** 2)(w, h)),
        lambda w, h: jnp.sum((w - scaled(h)) ** 2),
        # The mixed derivative vanishes at this point, but not by structure.
        lambda w, h: jnp.sum(w**2) + jnp.sum((h - HPARAMS) ** 2 * w),
    ],
    ids=["jit", "checkpoint", "scan", "cond", "vmap", "custom_vjp", "zero here"],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_hyperparameters_with_influence_pass(inner, jitted):
    function: Any = partial(hypergrad, inner, outer, solver=solvers.neumann(1, 0.1))
    if jitted:
        function = jax.jit(function)
    assert jax.eval_shape(function, PARAMS, HPARAMS).shape == (2,)


def test_hyperparameters_of_the_outer_loss_only_pass():
    """The inner mixed term is zero and the direct one is all there is."""
    got = hypergrad(ignored, lambda w, h: jnp.sum(w) * jnp.sum(h**2), PARAMS, HPARAMS)
    np.testing.assert_allclose(got, 2 * 3.0 * HPARAMS, rtol=1e-6)


def test_one_leaf_with_influence_is_enough():
    hparams = {"used": HPARAMS, "unused": jnp.ones(3)}
    got = hypergrad(
        lambda w, h: inner(w, h["used"]), outer, PARAMS, hparams, solver=solvers.dense()
    )
    np.testing.assert_array_equal(got["unused"], 0)
    np.testing.assert_allclose(got["used"], 2 * PARAMS, rtol=1e-6)
