"""Derivatives of `implicit_argmin` against those of closed-form solves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import curvature, implicit_argmin, solvers
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once


def frozen(solve):
    """`solve` with no derivative of its own."""

    def run(*args):
        return jax.lax.stop_gradient(solve(*args))

    return run


def decorated(problem, **options):
    return implicit_argmin(problem.inner, **options)(frozen(problem.solve))


@pytest.mark.parametrize("name", problems.MINIMA)
def test_grad(name, x64):
    problem = problems.MINIMA[name]()
    _, hparams, inner_args, outer_args = problem.operands
    solve = decorated(problem)
    got = run_once(
        jax.grad(lambda h: problem.outer(solve(h, *inner_args), h, *outer_args)),
        hparams,
    )
    assert_close(name, got, problem.reference, 1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": solvers.dense()},
        {"solver": solvers.neumann(2000, step_size=0.2)},
        {"solver": jax.scipy.sparse.linalg.cg},
        {"curvature": curvature.hessian("reverse-over-reverse")},
    ],
    ids=["dense", "neumann", "jax cg", "reverse-over-reverse"],
)
def test_grad_with_options(options, x64):
    problem = problems.coupled_quadratic()
    _, hparams, inner_args, outer_args = problem.operands
    solve = decorated(problem, **options)
    got = run_once(
        jax.grad(lambda h: problem.outer(solve(h, *inner_args), h, *outer_args)),
        hparams,
    )
    assert_close(
        "grad", got, problem.reference, 1e-4 if "jax" in str(options) else 1e-8
    )


@pytest.mark.parametrize("transform", [jax.jacrev, jax.jacfwd])
def test_jacobians(transform, x64):
    """All of P4's Jacobian, -H^-1 B, and its derivative in the floating arguments."""
    problem = problems.coupled_quadratic()
    _, hparams, (hessian, coupling), _ = problem.operands
    solve = decorated(problem)
    got = run_once(transform(solve), hparams, hessian, coupling)
    expected = -np.linalg.solve(problem.hessian, problem.inner_args[1])
    assert_close("a", got["a"].reshape(6, 4), expected[:6], 1e-8)
    assert_close("b", got["b"][0], expected[6:], 1e-8)


def test_derivatives_in_the_arguments(x64):
    """With respect to data, through both modes: exact reverse mode of the solve."""
    problem = problems.feature_ridge()
    _, hparams, (x, y), outer_args = problem.operands
    solve = decorated(problem)

    def total(solver, x, y):
        return problem.outer(solver(hparams, x, y), hparams, *outer_args)

    expected = run_once(jax.grad(functools.partial(total, problem.solve), (0, 1)), x, y)
    got = run_once(jax.grad(functools.partial(total, solve), (0, 1)), x, y)
    assert_close("reverse", got, expected, 1e-8)
    direction = (jnp.ones_like(x), jnp.cos(y))
    _, got = run_once(
        lambda: jax.jvp(functools.partial(total, solve), (x, y), direction)
    )
    along = sum(np.vdot(e, d) for e, d in zip(expected, direction, strict=True))
    np.testing.assert_allclose(got, along, rtol=1e-8)


def test_integers_and_keys_in_the_arguments(x64):
    """They have no derivative and are in nobody's way."""

    def inner(w, h, data, key):
        rows = jnp.take(data["x"], data["index"], axis=0)
        shift = jax.random.normal(key, w.shape, w.dtype)
        return 0.5 * jnp.sum((w - h * rows.mean(0) - shift) ** 2)

    @implicit_argmin(inner)
    def solve(h, data, key):
        rows = jnp.take(data["x"], data["index"], axis=0)
        shift = jax.random.normal(key, (3,), h.dtype)
        return jax.lax.stop_gradient(h * rows.mean(0) + shift)

    rng = np.random.default_rng(0)
    data = {"x": jnp.asarray(rng.standard_normal((5, 3))), "index": jnp.array([0, 3])}
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        got = run_once(
            jax.jacrev(lambda h, key=key: solve(h, data, key)), jnp.asarray(2.0)
        )
        assert_close("jacobian", got, data["x"][np.array([0, 3])].mean(0), 1e-10)


def test_vmap(x64):
    """Over hyperparameters, and of the gradient."""
    problem = problems.coupled_quadratic()
    _, _, inner_args, outer_args = problem.operands
    hessian, coupling = problem.inner_args
    rows = np.random.default_rng(0).standard_normal((3, 4))
    solve = decorated(problem)

    def total(h):
        return problem.outer(solve(h, *inner_args), h, *outer_args)

    got = run_once(jax.vmap(jax.grad(total)), jnp.asarray(rows))
    flats = -np.linalg.solve(hessian, coupling @ rows.T)
    adjoints = np.linalg.solve(hessian, flats - problem.outer_args[0][:, None])
    assert_close("rows", got, np.cos(rows) - (coupling.T @ adjoints).T, 1e-8)


def test_second_derivatives_of_a_quadratic(x64):
    """P4: the Hessian of the outer loss is B' H^-2 B - diag(sin h)."""
    problem = problems.coupled_quadratic()
    _, hparams, inner_args, outer_args = problem.operands
    hessian, coupling = problem.inner_args
    solve = decorated(problem)
    got = run_once(
        jax.hessian(lambda h: problem.outer(solve(h, *inner_args), h, *outer_args)),
        hparams,
    )
    slope = np.linalg.solve(hessian, coupling)
    expected = slope.T @ slope - np.diag(np.sin(problem.hparams))
    assert_close("hessian", got, expected, 1e-8)


@pytest.mark.parametrize(
    "second",
    [
        jax.hessian,
        lambda f: jax.jacrev(jax.jacrev(f)),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ],
    ids=["forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"],
)
def test_second_derivatives(second, x64):
    """P1, where the solution is not linear in the hyperparameters."""
    problem = problems.feature_ridge()
    _, hparams, inner_args, outer_args = problem.operands

    def total(solve, h):
        return problem.outer(solve(h, *inner_args), h, *outer_args)

    solve = decorated(problem)
    got = run_once(second(functools.partial(total, solve)), hparams)
    expected = run_once(jax.hessian(functools.partial(total, problem.solve)), hparams)
    assert_close("hessian", got, expected, 1e-8)


def test_a_solver_that_reverse_mode_cannot_enter(x64):
    """A while loop inside: the theorem looks at where it ends only."""
    problem = problems.logistic()
    _, hparams, inner_args, outer_args = problem.operands

    @implicit_argmin(problem.inner)
    def solve(h, *args):
        def slope(w):
            return jax.grad(problem.inner)(w, h, *args)

        return jax.lax.while_loop(
            lambda w: jnp.max(jnp.abs(slope(w))) > 1e-14,
            lambda w: w - 0.9 * slope(w),
            jnp.zeros_like(h),
        )

    got = run_once(
        jax.grad(lambda h: problem.outer(solve(h, *inner_args), h, *outer_args)),
        hparams,
    )
    assert_close("logistic", got, problem.reference, 1e-8)


def test_half_precision_parameters():
    @implicit_argmin(lambda w, h: jnp.sum((w - h) ** 2))
    def solve(h):
        return jax.lax.stop_gradient(h)

    h = jnp.asarray([1.0, 2.0], jnp.bfloat16)
    got = run_once(jax.grad(lambda h: jnp.sum(solve(h) ** 2)), h)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), [2.0, 4.0], rtol=1e-2)


def test_it_keeps_the_name_and_the_value():
    @implicit_argmin(lambda w, h: jnp.sum((w - h) ** 2))
    def my_solve(h):
        """Solves."""
        return h

    assert my_solve.__name__ == "my_solve" and my_solve.__doc__ == "Solves."
    np.testing.assert_array_equal(my_solve(jnp.array([1.0, 3.0])), [1.0, 3.0])
