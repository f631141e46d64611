"""Products by differences of gradients, for losses without a second derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import (
    curvature,
    hypergrad,
    implicit_argmin,
    solvers,
    value_and_hypergrad,
)
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once


@jax.custom_vjp
def once_only(x):
    """log cosh, whose gradient comes from a callback that has no derivative."""
    return jnp.sum(jnp.log(jnp.cosh(x)))


def _forward(x):
    return once_only(x), x


def _backward(x, cotangent):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    slope = jax.pure_callback(lambda x: np.tanh(np.asarray(x)), shape, x)
    return (cotangent * slope,)


once_only.defvjp(_forward, _backward)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-7), ("float32", 2e-3), ("bfloat16", 0.1)]
)
def test_losses_without_a_second_derivative(dtype, tolerance):
    """Differences of gradients, with a step for the type. tanh' = 1 - tanh^2."""
    rng = np.random.default_rng(0)
    coupling = 0.5 * rng.standard_normal((4, 3))
    w, h = rng.standard_normal(4), rng.standard_normal(3)

    def inner(w, h, coupling):
        return once_only(w - coupling @ h) + 0.5 * jnp.sum(w**2)

    slopes = 1 - np.tanh(w - coupling @ h) ** 2
    x = np.linalg.solve(np.diag(slopes) + np.eye(4), 2 * w)
    expected = coupling.T @ (slopes * x)
    with jax.enable_x64(dtype == "float64"):
        operands = [jnp.asarray(a).astype(dtype) for a in (w, h, coupling)]

        def run(w, h, coupling, step):
            return value_and_hypergrad(
                inner,
                lambda w, h: jnp.sum(w**2),
                w,
                h,
                inner_args=(coupling,),
                solver=solvers.conjugate_gradient(6),
                curvature=curvature.finite_difference(step),
            )[1:]

        grads, info = run_once(functools.partial(run, step="auto"), *operands)
        assert_close("auto", grads, expected, tolerance)
        assert info.residual_norm < tolerance
        assert grads.dtype == operands[1].dtype
        given = {"float64": 1e-5, "float32": 1e-2, "bfloat16": 0.3}[dtype]
        grads, _ = run_once(functools.partial(run, step=given), *operands)
        assert_close("given", grads, expected, tolerance)


def test_finite_differences_take_damping(x64):
    problem = problems.coupled_quadratic()
    params, hparams, inner_args, outer_args = problem.operands

    def run(curvature):
        return hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.dense(),
            curvature=curvature,
        )

    got = run_once(lambda: run(curvature.finite_difference(damping=0.4)))
    expected = run_once(lambda: run(curvature.hessian(damping=0.4)))
    assert_close("damped", got, expected, 1e-7)


def test_the_matrix_of_an_argmin(x64):
    """cosh(w - h) + w^2: the mixed derivative is that of the loss, by derivatives."""

    @implicit_argmin(
        lambda w, h: jnp.sum(jnp.cosh(w - h) + w**2),
        curvature=curvature.finite_difference(),
    )
    def solve(h):
        return h / 3

    h = jnp.array([0.3, -1.0])
    slopes = np.cosh(2 * np.asarray(h) / 3)
    for jacobian in (jax.jacrev, jax.jacfwd):
        got = run_once(jacobian(solve), h)
        assert_close("jacobian", got, np.diag(slopes / (slopes + 2)), 1e-7)
