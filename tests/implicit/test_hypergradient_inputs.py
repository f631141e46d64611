"""Parameters and losses out of the ordinary: half precision, scalars, custom VJPs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import (
    curvature,
    hypergrad,
    hypergrad_root,
    solvers,
    value_and_hypergrad,
)
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_solved_in_float32(dtype):
    """500 terms at kappa 100: sums in bfloat16 would be off by more than ten percent.

    The Hessian is diagonal with powers of two, so that products are exact in half
    precision and what is left is the rounding of their arguments.
    """
    diagonal = 2.0 ** np.linspace(-6, 0, 7)
    hparams = np.linspace(-2, 1, 7)

    def inner(w, h, diagonal):
        return jnp.sum(0.5 * diagonal * w["a"] ** 2 - w["a"] * h)

    def outer(w, h, scale):
        del h
        return jnp.sum(w["a"]).astype(jnp.float32) * scale

    for scale in (1.0, 1e-3):
        run = functools.partial(
            value_and_hypergrad,
            inner,
            outer,
            inner_args=(jnp.asarray(diagonal, dtype),),
            outer_args=(scale,),
            solver=solvers.neumann(500, step_size=1.0),
        )
        params = {"a": jnp.asarray(hparams / diagonal, dtype)}
        _, grads, info = run_once(run, params, jnp.asarray(hparams, dtype))
        assert info.solution["a"].dtype == jnp.float32
        assert grads.dtype == dtype
        assert_close("grads", grads, scale / diagonal, 0.01)
        assert info.residual_norm < 0.01


def test_scalar_parameters_and_python_floats(x64):
    """w = h / 2 and the outer loss w^2: the hypergradient is h / 2."""

    def inner(w, h):
        return w**2 - h * w

    for make in (float, np.float64, jnp.float64):
        for solver in (solvers.conjugate_gradient(3), solvers.dense()):
            run = functools.partial(hypergrad, inner, lambda w, h: w**2)
            for x0 in (None, make(0.5)):
                got = run(make(1.5), make(3.0), solver=solver, x0=x0)
                np.testing.assert_allclose(got, 1.5, rtol=1e-12)
    got = run(1.5, 3.0, solver=lambda matvec, b: 0.5 * float(b))
    np.testing.assert_allclose(got, 1.5, rtol=1e-12)


def test_root_functions_in_another_precision():
    """bfloat16 parameters and float32 data: the root function comes in float32."""
    scale = np.array([2.0, 4.0], np.float32)
    got = run_once(
        lambda w, h: hypergrad_root(
            lambda w, h: scale * w.astype(jnp.float32) - h,
            lambda w, h: jnp.sum(w.astype(jnp.float32)),
            w,
            h,
            solver=solvers.dense(),
        ),
        jnp.ones(2, jnp.bfloat16),
        jnp.asarray(scale),
    )
    np.testing.assert_allclose(got, 1 / scale, rtol=1e-2)


def test_leaves_without_entries(x64):
    params = {"w": jnp.ones(2), "none": jnp.zeros((0, 3)), "also": None}

    def inner(w, h):
        return jnp.sum(w["w"] ** 2) + jnp.sum(w["none"]) - h @ w["w"]

    for solver in (solvers.conjugate_gradient(5), solvers.neumann(12)):
        got = run_once(
            functools.partial(
                hypergrad,
                inner,
                lambda w, h: jnp.sum(w["w"]) + jnp.sum(w["none"]),
                params,
                solver=solver,
            ),
            jnp.full(2, 2.0),
        )
        assert_close("h / 2", got, np.full(2, 0.5), 1e-6)


def recursive_softplus():
    """Softplus whose forward rule calls itself: forward mode refuses it."""

    @jax.custom_vjp
    def softplus(x):
        return jnp.logaddexp(x, 0.0)

    def forward(x):
        y = softplus(x)
        return y, y

    softplus.defvjp(forward, lambda y, ct: (-ct * jnp.expm1(-y),))
    return softplus


def test_losses_without_forward_mode(x64):
    problem = problems.logistic()
    params, hparams, inner_args, outer_args = problem.operands
    softplus = recursive_softplus()

    def inner(w, log_penalty, x, y):
        penalty = 0.5 * jnp.sum(jnp.exp(log_penalty) * w**2)
        return jnp.mean(softplus(-y * (x @ w))) + penalty

    run = functools.partial(
        hypergrad,
        inner,
        problem.outer,
        params,
        hparams,
        inner_args=inner_args,
        outer_args=outer_args,
        solver=solvers.conjugate_gradient(20),
    )
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(run).lower()
    reverse = curvature.hessian("reverse-over-reverse")
    got = run_once(lambda: run(curvature=reverse))
    assert_close("reverse-over-reverse", got, problem.reference, 1e-10)
    got = run_once(
        lambda: hypergrad_root(
            jax.grad(inner),
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.dense(),
        )
    )
    assert_close("root", got, problem.reference, 1e-10)
