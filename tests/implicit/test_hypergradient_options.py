"""Options, diagnostics, transformations and precisions of `hypergrad`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from autodo_jax.implicit import (
    hypergrad,
    solvers,
    value_and_hypergrad,
)
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once


def coupled(transform=value_and_hypergrad, **options):
    """`transform` on P4 as a function of (params, hparams, inner_args, outer_args)."""
    problem = problems.coupled_quadratic()

    def run(params, hparams, inner_args, outer_args):
        return transform(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            **options,
        )

    return run


def test_info_is_what_numpy_says(precision):
    """Away from the minimum and far from converged, where no number is zero."""
    problem = problems.coupled_quadratic()
    flat = ravel_pytree(problem.params)[0] + np.linspace(-1, 1, 12)
    hessian, coupling = problem.inner_args
    b = flat - problem.outer_args[0]
    x = 0.1 * sum(
        np.linalg.matrix_power(np.eye(12) - 0.1 * hessian, j) @ b for j in range(4)
    )
    _, hparams, inner_args, outer_args = problem.operands
    params = jax.tree.map(jnp.asarray, problems.coupled_tree(flat))
    run = coupled(solver=solvers.neumann(3, 0.1))
    value, grads, info = run_once(run, params, hparams, inner_args, outer_args)
    expected = {
        "inner_grad_norm": np.linalg.norm(hessian @ flat + coupling @ problem.hparams),
        "residual_norm": np.linalg.norm(hessian @ x - b) / np.linalg.norm(b),
        "curvature": x @ hessian @ x / (x @ x),
        "rhs_norm": np.linalg.norm(b),
        "direct_norm": np.linalg.norm(np.cos(problem.hparams)),
    }
    for name, number in expected.items():
        assert getattr(info, name).shape == ()
        assert_close(name, getattr(info, name), number, precision)
    assert_close("solution", info.solution, problems.coupled_tree(x), precision)
    assert_close("value", value, 0.5 * b @ b + np.sin(problem.hparams).sum(), precision)
    assert_close("grads", grads, np.cos(problem.hparams) - coupling.T @ x, precision)
    assert bool(info.grads_finite)
    assert info.aux is None and info.solver_info is None


def test_info_flags_what_is_not_finite():
    params, hparams, inner_args, outer_args = problems.coupled_quadratic().operands
    run = coupled(solver=solvers.neumann(2, 0.1))
    info = run_once(run, params, hparams.at[0].set(jnp.nan), inner_args, outer_args)[2]
    assert not bool(info.grads_finite)
    assert np.isnan(info.inner_grad_norm)


def test_negative_curvature_is_flagged():
    """On an indefinite Hessian conjugate gradients stop, and x'Ax < 0 says so."""

    def inner(w, h, diagonal):
        return 0.5 * jnp.sum(diagonal * w**2) + w @ h

    def outer(w, h):
        del h
        return w[0] + 0.1 * w[1]

    run = functools.partial(
        value_and_hypergrad,
        inner,
        outer,
        jnp.zeros(3),
        jnp.zeros(3),
        solver=solvers.conjugate_gradient(20),
    )
    _, grads, info = run_once(lambda d: run(inner_args=(d,)), jnp.array([-1.0, 2, 3]))
    assert info.curvature < 0
    assert bool(info.solver_info.negative_curvature)
    assert info.solver_info.num_iters == 1
    # One step along b = (1, .1, 0), the length at which |A x - b| is smallest.
    length = -(1 - 0.02) / (1 + 0.04)
    assert_close("grads", grads, -length * np.array([1.0, 0.1, 0.0]), 1e-6)
    expected = np.hypot(-length - 1, 0.2 * length - 0.1) / np.hypot(1, 0.1)
    np.testing.assert_allclose(info.residual_norm, expected, rtol=1e-5)
    _, _, info = run_once(lambda d: run(inner_args=(d,)), jnp.array([1.0, 2.0, 3.0]))
    assert info.curvature > 0
    assert not bool(info.solver_info.negative_curvature)


def test_outer_aux_is_returned(precision):
    problem = problems.scalar_ridge()
    params, hparams, inner_args, outer_args = problem.operands

    def run(with_aux):
        def outer(w, h, x, y):
            value = problem.outer(w, h, x, y)
            return (value, {"predictions": x @ w, "n": None}) if with_aux else value

        return value_and_hypergrad(
            problem.inner,
            outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.dense(),
            outer_has_aux=with_aux,
        )

    value, grads, info = run_once(lambda: run(True))
    assert_close("aux", info.aux["predictions"], outer_args[0] @ params, precision)
    assert_close("grads", grads, problem.reference, precision)
    assert_close("value", value, problem.outer(params, hparams, *outer_args), precision)


def test_no_derivative_flows_through_the_warm_start(x64):
    operands = problems.coupled_quadratic().operands

    def total(x0):
        run = coupled(hypergrad, solver=solvers.neumann(2, 0.1), x0=x0)
        return jnp.sum(run(*operands))

    x0 = jax.tree.map(jnp.ones_like, operands[0])
    for leaf in jax.tree.leaves(run_once(jax.grad(total), x0)):
        np.testing.assert_array_equal(leaf, 0)


def test_a_good_warm_start_needs_no_product(x64):
    problem = problems.coupled_quadratic()
    flat = ravel_pytree(problem.params)[0]
    x0 = problems.coupled_tree(
        np.linalg.solve(problem.hessian, flat - problem.outer_args[0])
    )
    run = coupled(solver=solvers.conjugate_gradient(50, tol=1e-9), x0=x0)
    _, grads, info = run_once(run, *problem.operands)
    assert_close("grads", grads, problem.reference, 1e-10)
    assert_close("solution", info.solution, x0, 1e-10)
    assert info.residual_norm < 1e-12


def test_under_vmap_over_hparams(x64):
    """Each row has its own minimum and the closed form of P4."""
    problem = problems.coupled_quadratic()
    hessian, coupling = problem.inner_args
    rows = np.random.default_rng(0).standard_normal((3, 4))
    flats = -np.linalg.solve(hessian, coupling @ rows.T).T
    adjoints = np.linalg.solve(hessian, (flats - problem.outer_args[0]).T)
    expected = np.cos(rows) - (coupling.T @ adjoints).T
    params = jax.vmap(problems.coupled_tree)(jnp.asarray(flats))
    _, _, inner_args, outer_args = problem.operands
    for solver in (solvers.conjugate_gradient(50), solvers.dense()):
        run = coupled(hypergrad, solver=solver)
        mapped = jax.vmap(run, in_axes=(0, 0, None, None))
        got = run_once(mapped, params, jnp.asarray(rows), inner_args, outer_args)
        assert_close("rows", got, expected, 1e-10)


def test_inside_scan_with_a_warm_start(x64):
    """Twenty outer steps on P1b, against descent on the closed-form hypergradient."""
    problem = problems.scalar_ridge()
    _, hparams, inner_args, outer_args = problem.operands

    def implicit_step(carry, _):
        c, x0 = carry
        params = problem.solve(c, *inner_args)
        value, grads, info = value_and_hypergrad(
            problem.inner,
            problem.outer,
            params,
            c,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.conjugate_gradient(20),
            x0=x0,
        )
        return ({"c": c["c"] - 0.5 * grads["c"]}, info.solution), value

    def exact_step(c, _):
        def total(c):
            return problem.outer(problem.solve(c, *inner_args), c, *outer_args)

        value, grads = jax.value_and_grad(total)(c)
        return {"c": c["c"] - 0.5 * grads["c"]}, value

    start = (hparams, jnp.zeros(6))
    (got, _), values = run_once(
        lambda s: jax.lax.scan(implicit_step, s, None, length=20), start
    )
    expected, exact_values = run_once(
        lambda h: jax.lax.scan(exact_step, h, None, length=20), hparams
    )
    assert_close("last", got, expected, 1e-10)
    assert_close("values", values, exact_values, 1e-10)


def test_eager_and_jit_agree_and_repeat(x64):
    problem = problems.coupled_quadratic()
    run = coupled(hypergrad, solver=solvers.conjugate_gradient(50))
    eager = run(*problem.operands)
    np.testing.assert_array_equal(eager, run(*problem.operands))
    jitted = jax.jit(run)
    first = jitted(*problem.operands)
    np.testing.assert_array_equal(first, jitted(*problem.operands))
    assert_close("eager", eager, problem.reference, 1e-10)
    assert_close("jit", first, problem.reference, 1e-10)


def test_one_key_for_every_product(x64):
    """Dropout by a key in `inner_args`: the closed form with that one mask."""
    problem = problems.feature_ridge()
    _, hparams, (x, y), outer_args = problem.operands
    key = jax.random.key(3)

    def masked(x, key):
        return x * jax.random.bernoulli(key, 0.7, x.shape)

    def inner(w, h, x, y, key):
        return problem.inner(w, h, masked(x, key), y)

    def exact(h):
        return problem.outer(problem.solve(h, masked(x, key), y), h, *outer_args)

    params = problem.solve(hparams, masked(x, key), y)
    for solver in (solvers.conjugate_gradient(20), solvers.dense()):
        got, expected = run_once(
            lambda h, solver=solver: (
                hypergrad(
                    inner,
                    problem.outer,
                    params,
                    h,
                    inner_args=(x, y, key),
                    outer_args=outer_args,
                    solver=solver,
                ),
                jax.grad(exact)(h),
            ),
            hparams,
        )
        assert_close("dropout", got, expected, 1e-10)


def test_keys_in_batches():
    """A typed key for each product is a batch like any other."""
    keys = jax.random.split(jax.random.key(0), 3)

    def inner(w, h, key):
        return jnp.sum(jax.random.uniform(key, w.shape) * w**2) - h @ w

    got = hypergrad(
        inner,
        lambda w, h: jnp.sum(w),
        jnp.ones(4),
        jnp.ones(4),
        inner_batches=(keys,),
        solver=solvers.neumann(2, step_size=0.3),
    )
    draws = [np.asarray(jax.random.uniform(key, (4,))) for key in keys]
    first = 1 - 0.6 * draws[0]
    second = first * (1 - 0.6 * draws[1])
    assert_close("keys", got, 0.3 * (1 + first + second), 1e-6)


def test_reverse_mode_through_the_hypergradient(x64):
    """d/dh of P4's hypergradient with w(h): the derivative of its closed form."""
    problem = problems.coupled_quadratic()
    _, hparams, inner_args, outer_args = problem.operands
    hessian, coupling = problem.inner_args
    run = coupled(hypergrad, solver=solvers.dense())

    def at(h):
        return run(problem.solve(h, *inner_args), h, inner_args, outer_args)

    inverse = np.linalg.inv(hessian)
    expected = coupling.T @ inverse @ inverse @ coupling - np.diag(
        np.sin(problem.hparams)
    )
    for jacobian in (jax.jacrev, jax.jacfwd):
        assert_close("jacobian", run_once(jacobian(at), hparams), expected, 1e-10)
