"""The contract that every solver keeps, and what is particular to each."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from autodo_jax.implicit import curvature, hypergrad, solvers, value_and_hypergrad
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once

KEY = jax.random.key(0)
jsp = jax.scipy.sparse.linalg
SOLVERS: dict[str, solvers.Solver] = {
    "neumann": solvers.neumann(400, step_size=0.19),
    "neumann, auto step": solvers.neumann(400),
    "conjugate_gradient": solvers.conjugate_gradient(40),
    "nystrom": solvers.nystrom(7, 0.0, KEY),
    "dense": solvers.dense(),
    "jax cg": functools.partial(jsp.cg, tol=1e-12),
    "jax gmres": functools.partial(jsp.gmres, tol=1e-12),
    "jax bicgstab": functools.partial(jsp.bicgstab, tol=1e-12),
}
EXACT = 1e-6  # What the series has converged to; the others are at 1e-10 in the bank.


def system(dtype=np.float64):
    """A positive definite 7 x 7 matrix, kappa 10, and its product on a nested tree."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((7, 7)))
    matrix = basis @ np.diag(np.linspace(0.5, 5, 7)) @ basis.T
    b = as_tree(rng.standard_normal(7).astype(dtype))

    def matvec(v):
        flat, unravel = ravel_pytree(v)
        return unravel(jnp.asarray(matrix, flat.dtype) @ flat)

    return matrix, matvec, b


def as_tree(flat):
    """Nested, with a scalar leaf and an entry that is None."""
    flat = jnp.asarray(flat)
    return {"a": flat[:4].reshape(2, 2), "b": (flat[4:6], [flat[6]], None)}


def solution(solver, matvec, b):
    return solvers.split_info(solver(matvec, b), b)[0]


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], np.float64)


@pytest.mark.parametrize("name", SOLVERS)
def test_solves_on_pytrees_and_under_transformations(name, x64):
    """Structure, dtype, b = 0, jit, and a vmap over right-hand sides and matrices."""
    matrix, matvec, b = system()
    solver = SOLVERS[name]
    scales = jnp.array([1.0, 0.5])

    def run(b):
        rows = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), b)

        def scaled(scale, row):
            def product(v):
                return jax.tree.map(lambda leaf: scale * leaf, matvec(v))

            return solution(solver, product, row)

        zeros = jax.tree.map(jnp.zeros_like, b)
        return (
            solution(solver, matvec, b),
            solution(solver, matvec, zeros),
            jax.vmap(scaled)(scales, rows),
        )

    one, zero, two = run_once(run, b)
    expected = as_tree(np.linalg.solve(matrix, flat(b)))
    assert_close("x", one, expected, EXACT)
    assert [leaf.dtype for leaf in jax.tree.leaves(one)] == [jnp.float64] * 3
    np.testing.assert_array_equal(flat(zero), 0)
    for i, factor in enumerate([1.0, -4.0]):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], two)
        half = jax.tree.map(lambda leaf, f=factor: f * leaf, expected)
        # A halved matrix is slower for a step that is given.
        assert_close(f"row {i}", row, half, 1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_scalar_parameters_and_tiny_right_hand_sides(name):
    """In float32: 1e-30 squared is 0, so a solver that squares it returns 0 or NaN."""
    solver = SOLVERS[name]

    def inner(w, h, x):
        return 0.5 * x * w**2 - w * h

    def outer(w, h, scale):
        return scale * w

    def run(scale):
        return value_and_hypergrad(
            inner,
            outer,
            1.5,
            jnp.float32(3.0),
            inner_args=(2.0,),
            outer_args=(scale,),
            solver=solver,
        )

    mapped = jax.vmap(run)
    _, grads, info = run_once(mapped, jnp.array([1.0, 1e-30, 0.0], jnp.float32))
    expected = np.array([0.5, 0.5, 0.0])
    np.testing.assert_allclose(grads * np.array([1, 1e30, 1]), expected, rtol=1e-5)
    np.testing.assert_allclose(info.curvature[:2], 2.0, rtol=1e-5)
    np.testing.assert_allclose(info.residual_norm, 0, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", SOLVERS)
def test_precisions_of_the_parameters(name, dtype):
    """Grads come in the precision of `hparams`, solutions in float32 at least."""
    matrix, _, b = system(np.float32)

    def inner(w, h, matrix):
        w = ravel_pytree(w)[0]
        return 0.5 * w @ matrix @ w - w @ ravel_pytree(h)[0]

    def outer(w, h):
        return 0.5 * jnp.sum(ravel_pytree(w)[0].astype(jnp.float32) ** 2)

    run = functools.partial(value_and_hypergrad, inner, outer, solver=SOLVERS[name])
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), b)
    matrix_in = jnp.asarray(matrix, dtype)
    _, grads, info = run_once(
        lambda w, m: run(w, w, inner_args=(m,)), params, matrix_in
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}
    solution_dtypes = {leaf.dtype for leaf in jax.tree.leaves(info.solution)}
    assert solution_dtypes == {jnp.dtype(jnp.float32)}
    rounded = np.asarray(matrix_in, np.float64)
    expected = as_tree(np.linalg.solve((rounded + rounded.T) / 2, flat(params)))
    # Products in bfloat16 are off by 0.4 percent, and kappa is 10.
    assert_close("grads", grads, expected, 2e-5 if dtype == jnp.float32 else 5e-2)


@pytest.mark.parametrize(
    "solver",
    [
        solvers.neumann(400, damping=0.5),
        solvers.conjugate_gradient(40, damping=0.5),
        solvers.nystrom(7, 0.5, KEY),
        solvers.dense(damping=0.5),
    ],
)
def test_damping_is_added_to_the_system(solver, x64):
    matrix, matvec, b = system()
    got = run_once(lambda b: solution(solver, matvec, b), b)
    damped = np.linalg.solve(matrix + 0.5 * np.eye(7), flat(b))
    assert_close("damped", got, as_tree(damped), 1e-8)


def test_the_solver_of_the_identity(x64):
    b = system()[2]
    got = solvers.identity(0.3)(lambda v: pytest.fail("a product"), b)
    np.testing.assert_array_equal(flat(got), 0.3 * flat(b))


def test_traced_step_sizes(x64):
    """A step under jit, and a vmap over steps."""
    matrix, matvec, b = system()
    steps = jnp.array([0.1, 0.15])
    got = run_once(jax.vmap(lambda a: solvers.neumann(2, a)(matvec, b)), steps)
    for i, a in enumerate(np.asarray(steps)):
        power = np.eye(7) - a * matrix
        expected = a * (np.eye(7) + power + power @ power) @ flat(b)
        row = jax.tree.map(lambda leaf, i=i: leaf[i], got)
        assert_close(f"step {a}", row, as_tree(expected), 1e-12)


def test_the_auto_step_converges(x64):
    """Never above 2 / lambda_max, on spectra with and without a gap at the top."""
    for top in ([1.0], [1.0, 0.999], np.linspace(0.5, 1.0, 20)):
        eigenvalues = 100 * np.concatenate([np.linspace(0.3, 0.4, 10), top])
        diagonal = jnp.asarray(eigenvalues)
        got = run_once(
            lambda b, d=diagonal: solvers.neumann(60)(lambda v: d * v, b),
            jnp.ones(diagonal.size),
        )
        assert_close("x", got, 1 / eigenvalues, 1e-6)


def test_the_auto_step_without_curvature():
    """A matrix of zeros has no scale: a step of 1, and nothing that is not finite."""
    got = solvers.neumann(2)(lambda v: 0 * v, jnp.ones(3))
    np.testing.assert_array_equal(got, 3.0)


def test_the_auto_step_of_an_estimate(x64):
    """5 % below its inverse; 1 for estimates that give no scale."""
    estimates = [4.0, 1e-30, 0.0, -2.0, np.nan]
    expected = [1 / 4.2, 1e30 / 1.05, 1, 1, 1]
    got = [solvers.auto_step_size(estimate) for estimate in estimates]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_auto_is_that_step_after_its_number_of_products():
    _, matvec, b = system(np.float32)
    estimate = solvers.largest_eigenvalue(matvec, b, num_steps=solvers.AUTO_NUM_STEPS)
    step = solvers.auto_step_size(estimate)
    got, expected = (solvers.neumann(3, a)(matvec, b) for a in ("auto", step))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("num_steps", [8, 60])
def test_largest_eigenvalue(num_steps, x64):
    matrix, matvec, b = system()
    largest = np.linalg.eigvalsh(matrix)[-1]
    for key in (None, jax.random.key(5)):
        got = run_once(
            lambda b, key=key: solvers.largest_eigenvalue(matvec, b, key, num_steps), b
        )
        assert got <= largest * (1 + 1e-12)
        np.testing.assert_allclose(got, largest, rtol=0.1 if num_steps == 8 else 1e-4)
    negative = solvers.largest_eigenvalue(lambda v: -2 * v, jnp.ones(4), num_steps=3)
    np.testing.assert_allclose(negative, 2.0)


def test_conjugate_gradients_count_and_stop(x64):
    """Three distinct eigenvalues: three products, and the residual by recurrence."""
    diagonal = jnp.asarray(np.repeat([1.0, 2.0, 5.0], 4))
    b = jnp.asarray(np.random.default_rng(1).standard_normal(12))
    for max_iters in (8, 40):
        solver = solvers.conjugate_gradient(max_iters, tol=1e-10)
        x, info = run_once(lambda b, s=solver: s(lambda v: diagonal * v, b), b)
        assert info.num_iters == 3
        assert info.residual_norm < 1e-10
        assert not info.negative_curvature
        assert_close("x", x, b / diagonal, 1e-10)
    x, info = run_once(
        lambda b: solvers.conjugate_gradient(2)(lambda v: diagonal * v, b), b
    )
    assert info.num_iters == 2
    left = np.linalg.norm(diagonal * x - b) / np.linalg.norm(b)
    np.testing.assert_allclose(info.residual_norm, left, rtol=1e-8)


def test_conjugate_gradients_stop_at_negative_curvature_on_the_way(x64):
    """Steps along positive curvature are kept, and the solution is finite."""
    diagonal = jnp.array([3.0, 2.0, 1.0, -0.1])
    b = jnp.array([1.0, 1.0, 1.0, 0.3])
    for max_iters in (8, 20):
        solver = solvers.conjugate_gradient(max_iters)
        x, info = run_once(lambda b, s=solver: s(lambda v: diagonal * v, b), b)
        assert bool(info.negative_curvature)
        assert 1 < info.num_iters <= 4
        assert np.all(np.isfinite(x)) and np.vdot(x, b) > 0


def test_preconditioner(x64):
    """The inverse as preconditioner: one iteration; a wrong scale does not matter."""
    matrix, matvec, b = system()
    inverse = jnp.asarray(np.linalg.inv(matrix))

    def precondition(v):
        vector, unravel = ravel_pytree(v)
        return unravel(7.0 * inverse @ vector)

    solver = solvers.conjugate_gradient(40, preconditioner=precondition, tol=1e-10)
    x, info = run_once(lambda b: solver(matvec, b), b)
    assert info.num_iters == 1
    assert_close("x", x, as_tree(np.linalg.solve(matrix, flat(b))), 1e-10)


def test_nystrom_drops_what_is_outside_its_range(x64):
    """Without damping the pseudo-inverse, for any rank of at least the true one."""
    rng = np.random.default_rng(2)
    factor = rng.standard_normal((7, 3))
    matrix, b = factor @ factor.T, rng.standard_normal(7)
    for rank in (3, 5, 7):
        solver = solvers.nystrom(rank, 0.0, KEY)
        got = run_once(lambda b, s=solver: s(lambda v: matrix @ v, b), jnp.asarray(b))
        assert_close(f"rank {rank}", got, np.linalg.pinv(matrix) @ b, 1e-8)


def test_dense_takes_any_matrix(x64):
    matrix = np.random.default_rng(3).standard_normal((7, 7))
    b = np.ones(7)
    got = run_once(lambda b: solvers.dense()(lambda v: matrix @ v, b), jnp.asarray(b))
    assert_close("x", got, np.linalg.solve(matrix, b), 1e-10)


def test_a_solver_of_ones_own(x64):
    """With and without info, on parameters that are themselves a pair."""

    def inner(w, h):
        return jnp.sum(w[0] ** 2) + jnp.sum(w[1] ** 2) - h * (w[0] + w[1])

    def own(matvec, b):
        del matvec
        return jax.tree.map(lambda leaf: leaf / 2, b)

    def run(solver):
        return value_and_hypergrad(
            inner,
            lambda w, h: 3 * w[0] + w[1],
            (jnp.array(1.0), jnp.array(1.0)),
            jnp.array(2.0),
            solver=solver,
        )

    _, grads, info = run(own)
    np.testing.assert_allclose(grads, 2.0)
    assert info.solver_info is None
    _, grads, info = run(lambda matvec, b: (own(matvec, b), {"products": 0}))
    np.testing.assert_allclose(grads, 2.0)
    assert info.solver_info == {"products": 0}


def test_options_are_keyword_only_and_documented():
    for make in (solvers.neumann, solvers.conjugate_gradient, solvers.nystrom):
        documented = inspect.getdoc(make) or ""
        for name in inspect.signature(make).parameters:
            assert f"{name}: " in documented, (make, name)


def test_curvature_and_solver_damping_agree(x64):
    problem = problems.coupled_quadratic()
    params, hparams, inner_args, outer_args = problem.operands

    def run(damping, solver_damping):
        return hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.dense(damping=solver_damping),
            curvature=curvature.hessian(damping=damping),
        )

    b = ravel_pytree(problem.params)[0] - problem.outer_args[0]
    x = np.linalg.solve(problem.hessian + 0.4 * np.eye(12), b)
    expected = np.cos(problem.hparams) - problem.inner_args[1].T @ x
    assert_close("curvature", run_once(lambda: run(0.4, 0.0)), expected, 1e-10)
    assert_close("solver", run_once(lambda: run(0.0, 0.4)), expected, 1e-10)
    # A damping that is traced, as in a search over it.
    assert_close("traced", run_once(run, 0.4, 0.0), expected, 1e-10)
    assert_close("traced", run_once(run, 0.0, 0.4), expected, 1e-10)
