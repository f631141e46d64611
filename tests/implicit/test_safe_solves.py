"""What goes wrong on a bad day: saddles, singular systems, warm starts, eager loops."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import (
    hypergrad,
    implicit_argmin,
    solvers,
    value_and_hypergrad,
)
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once

MANY: dict[str, solvers.Solver] = {
    "neumann": solvers.neumann(20),
    "neumann, a step too long": solvers.neumann(5, step_size=3.0),
    "conjugate_gradient": solvers.conjugate_gradient(10),
    "minres": solvers.minres(10),
    "normal_cg": solvers.normal_cg(10),
}
EXACT = {"minres", "normal_cg"}


def diagonal_inner(w, h, diagonal):
    return 0.5 * jnp.sum(diagonal * w**2) + w @ h


def sum_outer(w, h):
    del h
    return jnp.sum(w)


@functools.partial(jax.jit, static_argnums=0)
def warm(solver, diagonal, x0):
    zeros = jnp.zeros_like(diagonal)
    _, grads, info = value_and_hypergrad(
        diagonal_inner,
        sum_outer,
        zeros,
        zeros,
        inner_args=(diagonal,),
        solver=solver,
        x0=x0,
    )
    return grads, info.residual_norm, info.solution


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("diagonal", [(1.0, -0.1), (3.0, 0.5, -1.0)])
def test_warm_starts_on_saddles(name, diagonal):
    """`dL_v/dh = -1 / d`. From the solution before, or from far off: never worse."""
    diagonal = jnp.array(diagonal)
    for start in (jnp.zeros(diagonal.size), jnp.full(diagonal.size, 1e6)):
        x0, before = start, 1.0
        for _ in range(8):
            grads, residual, x0 = warm(MANY[name], diagonal, x0)
            assert residual <= before + 1e-5
            before = max(residual, 1e-5)
        if name in EXACT:
            assert_close("grads", grads, -1 / np.asarray(diagonal), 1e-5)


def test_warm_starts_are_shortened_not_lengthened():
    """`length / d` of the solution `1 / d` leaves `1 - length`, or 0 where cut to 1."""
    diagonal = jnp.array([1.0, 2.0, -0.5])
    for length, left in ((3.0, 0.0), (1.0, 0.0), (0.25, 0.75), (-1.0, 1.0)):
        _, residual, _ = warm(solvers.identity(1e-6), diagonal, length / diagonal)
        np.testing.assert_allclose(residual, left, atol=1e-5)


def test_a_warm_start_that_is_not_finite_is_dropped():
    diagonal = jnp.array([1.0, 2.0])
    for bad in (jnp.nan, jnp.inf):
        grads, _, _ = warm(MANY["minres"], diagonal, jnp.full(2, bad))
        assert_close("grads", grads, np.array([-1.0, -0.5]), 1e-5)


@pytest.mark.parametrize("shape", [(3, 6), (2, 5)])
@pytest.mark.parametrize("name", MANY)
def test_singular_hessians(name, shape):
    """Least squares with too few points: pinv(X) gives the hypergradient of sum(w).

    sum(w) is partly outside the range of the Hessian, so a residual is left.
    """
    x = np.random.default_rng(shape[0]).standard_normal(shape)
    h = np.arange(1.0, shape[0] + 1)
    _, grads, info = run_once(
        lambda x, h, w: value_and_hypergrad(
            lambda w, h, x: 0.5 * jnp.sum((x @ w - h) ** 2),
            sum_outer,
            w,
            h,
            inner_args=(x,),
            solver=MANY[name],
        ),
        *(jnp.asarray(a, jnp.float32) for a in (x, h, np.linalg.pinv(x) @ h)),
    )
    assert bool(info.grads_finite) and info.residual_norm <= 1 + 1e-5
    projected = np.linalg.pinv(x) @ x @ np.ones(shape[1])
    left = np.linalg.norm(projected - 1) / np.sqrt(shape[1])
    assert info.residual_norm >= left - 1e-5
    if name in EXACT:
        np.testing.assert_allclose(info.residual_norm, left, rtol=1e-4)
        assert_close("grads", grads, np.linalg.pinv(x).sum(0), 1e-4)


@pytest.mark.parametrize("make", [solvers.conjugate_gradient, solvers.minres])
@pytest.mark.parametrize("tol", [1e-3, 1e-2])
def test_tolerance_with_a_warm_start(make, tol, x64):
    """Relative to |b|: no product from an x0 within it, a few from one that is not."""
    diagonal = jnp.linspace(1.0, 100.0, 30)
    sign = (-1.0) ** jnp.arange(30)  # So that no length of x0 solves it.

    def solve(error):
        return value_and_hypergrad(
            diagonal_inner,
            lambda w, h: jnp.sum(w),
            diagonal,
            diagonal,
            inner_args=(diagonal,),
            solver=make(500, tol=tol),
            x0=(1 + error * sign) / diagonal,
        )[2]

    info = run_once(solve, tol / 2)
    assert info.solver_info.num_iters == 0
    info = run_once(solve, 10 * tol)
    assert 0 < info.solver_info.num_iters < 25
    assert 1e-3 * tol < info.residual_norm <= tol


@pytest.mark.parametrize("num_terms", [7, 50])
def test_the_default_on_a_saddle(num_terms):
    """Long series grow along negative curvature; the best partial sum does not."""
    diagonal = jnp.array([1.0, 0.6, -0.5])
    _, residual, _ = warm(solvers.neumann(num_terms), diagonal, None)
    assert residual <= 1
    plain = solvers.neumann(num_terms)(lambda v: diagonal * v, jnp.ones(3))
    left = np.linalg.norm(diagonal * plain - 1) / np.sqrt(3)
    assert left > 5, "called by itself it is the series, divergence included"


@pytest.mark.parametrize("scale", [1e-19, 1e-36])
def test_constant_factors_of_a_loss(scale):
    """As literals under jit, where the compiler may square them: 1e-38 underflows."""
    diagonal = jnp.array([1.0, 2.0, 3.0])

    def small(w, h):
        return scale * jnp.sum(w)

    @implicit_argmin(diagonal_inner)
    def solve(h, diagonal):
        return -h / diagonal

    def run(h):
        got = {
            name: hypergrad(
                diagonal_inner, small, h, h, inner_args=(diagonal,), solver=solver
            )
            for name, solver in (MANY | {"dense": solvers.dense()}).items()
            if "too long" not in name
        }
        got["argmin"] = jax.grad(lambda h: small(solve(h, diagonal), h))(h)
        return got

    for name, grads in run_once(run, diagonal).items():
        expected = -scale / np.asarray(diagonal, np.float64)
        # (1 - 1 / 3.15)^21 of a series of 20 terms is left.
        assert_close(name, grads, expected, 1e-3 if name == "neumann" else 1e-5)


@pytest.mark.parametrize("num_terms", [1, 4])
def test_the_last_partial_sum_of_a_series(num_terms):
    """It may be worse than zero, which the series cannot see; the residual says so."""
    rng = np.random.default_rng(num_terms)
    diagonals, sides = rng.standard_normal((2, 300, 3)).astype(np.float32)
    diagonals *= 3

    def solve(diagonal, b, step):
        info = value_and_hypergrad(
            diagonal_inner,
            lambda w, h: w @ b,
            b,
            b,
            inner_args=(diagonal,),
            solver=solvers.neumann(num_terms, step),
        )[2]
        return info.residual_norm, info.solution

    steps = np.exp(rng.standard_normal(300) - 1).astype(np.float32)
    residuals, x = run_once(jax.vmap(solve), diagonals, sides, steps)
    left = np.linalg.norm(diagonals * x - sides, axis=1)
    expected = left / np.linalg.norm(sides, axis=1)
    np.testing.assert_allclose(residuals, expected, rtol=1e-4, atol=1e-5)
    assert num_terms > 1 or expected.max() > 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_normal_equations(symmetric, x64):
    """Any A with its transpose by linear transposition; symmetric ones without."""
    matrix = np.random.default_rng(3).standard_normal((6, 6))
    matrix = matrix + matrix.T if symmetric else matrix
    solver = solvers.normal_cg(60, symmetric=symmetric)
    b = jnp.arange(1.0, 7.0)
    x, info = run_once(lambda b: solver(lambda v: jnp.asarray(matrix) @ v, b), b)
    assert_close("x", x, np.linalg.solve(matrix, b), 1e-8)
    assert info.residual_norm < 1e-8


def test_minres_with_a_preconditioner(x64):
    """The inverse of |A|: at most three products, for eigenvalues of 1 and -1."""
    diagonal = jnp.array([-100.0, 3.0, 0.01, 7.0])
    solver = solvers.minres(10, preconditioner=lambda v: v / jnp.abs(diagonal))
    x, info = run_once(lambda b: solver(lambda v: diagonal * v, b), jnp.ones(4))
    assert info.num_iters <= 3
    assert_close("x", x, 1 / np.asarray(diagonal), 1e-10)
    damped, _ = run_once(
        lambda b: solvers.minres(10, damping=0.5)(lambda v: diagonal * v, b),
        jnp.ones(4),
    )
    assert_close("damped", damped, 1 / (np.asarray(diagonal) + 0.5), 1e-9)


def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.parametrize("name", ["neumann", "conjugate_gradient", "minres"])
@pytest.mark.parametrize(
    ("num_calls", "most"), [(15, 5e6), pytest.param(300, 20e6, marks=pytest.mark.slow)]
)
def test_eager_loops_keep_nothing(name, num_calls, most):
    """Nothing is compiled at a call, so nothing is kept: 300 calls took 600 MB."""
    diagonal = jnp.linspace(1.0, 3.0, 5)

    def call():
        hypergrad(
            diagonal_inner,
            sum_outer,
            diagonal,
            diagonal,
            inner_args=(diagonal,),
            solver=MANY[name],
        )

    for _ in range(3):
        call()
    before = resident_bytes()
    for _ in range(num_calls):
        call()
    assert resident_bytes() - before < most


def leaves_loss(params, h, x):
    for kernel in params:
        x = jnp.tanh(x @ kernel)
    return jnp.sum(x**2) + jnp.exp(h) * sum(jnp.sum(k**2) for k in params)


def test_programs_do_not_grow_with_a_short_series():
    """Without a convolution T = 5 is a loop too: as many operations as T = 20."""
    params = [jnp.eye(3) for _ in range(12)]

    def size(num_terms):
        def run(params, h, x):
            return hypergrad(
                leaves_loss,
                leaves_loss,
                params,
                h,
                inner_args=(x,),
                outer_args=(x,),
                solver=solvers.neumann(num_terms, 0.1),
            )

        text = jax.jit(run).lower(params, jnp.zeros(()), jnp.ones((2, 3))).as_text()
        return len(text.splitlines())

    assert size(5) == size(20)


def test_the_start_of_the_power_iteration_is_cheap_for_many_leaves():
    """Hashes of positions, not a random generator for each of 60 leaves."""
    like = [jnp.ones((2, 3 + i % 2)) for i in range(60)]

    def program(like):
        text = jax.jit(
            lambda like: solvers.largest_eigenvalue(
                lambda v: jax.tree.map(lambda a: 2 * a, v), like, num_steps=1
            )
        )
        return text.lower(like)

    assert program(like).as_text().count("threefry") < 12
    np.testing.assert_allclose(
        run_once(
            jax.jit(
                lambda x: solvers.largest_eigenvalue(
                    lambda v: jax.tree.map(lambda a: 2 * a, v), x
                )
            ),
            like,
        ),
        2.0,
        rtol=1e-5,
    )


def test_inner_losses_with_auxiliary_output(x64):
    h = jnp.array([1.0, 2.0])

    def inner(w, h):
        return jnp.sum((w - jnp.sin(h)) ** 2), {"ignored": w}

    got = run_once(
        lambda h: hypergrad(inner, sum_outer, jnp.sin(h), h, inner_has_aux=True), h
    )
    assert_close("grads", got, np.cos(h), 1e-6)
    with pytest.raises(TypeError, match=r"`inner_loss`.*scalar.*inner_has_aux=True"):
        hypergrad(inner, sum_outer, h, h)
    with pytest.raises(TypeError, match=r"`inner_loss`.*pair.*inner_has_aux=True"):
        hypergrad(lambda w, h: inner(w, h)[0], sum_outer, h, h, inner_has_aux=True)


def test_conjugate_gradients_get_somewhere_where_their_residual_grows(x64):
    """Along small eigenvalues the iterates' residuals exceed |b|; zero is no answer."""
    eigenvalues = np.array([1.0, 0.3, 0.02, 0.003, 0.001])
    b = np.array([0.05, 0.1, 0.5, 0.6, 0.6])
    product = lambda v: jnp.asarray(eigenvalues) * v  # noqa: E731
    last = 1.0
    for max_iters in range(1, 6):
        x, info = solvers.conjugate_gradient(max_iters)(product, jnp.asarray(b))
        found = np.linalg.norm(eigenvalues * x - b) / np.linalg.norm(b)
        np.testing.assert_allclose(info.residual_norm, found, rtol=1e-6, atol=1e-9)
        # No point of the Krylov space is better than this one.
        basis = np.stack([eigenvalues**k * b for k in range(max_iters)], axis=1)
        image = eigenvalues[:, None] * basis
        least = image @ np.linalg.lstsq(image, b, rcond=None)[0]
        smallest = np.linalg.norm(least - b) / np.linalg.norm(b)
        assert smallest - 1e-7 <= found <= smallest + 0.05 and found < last
        last = float(found)
    np.testing.assert_allclose(x, b / eigenvalues, rtol=1e-6)


@pytest.mark.parametrize("smallest", [0.0, 1e-7, 1e-5])
def test_conjugate_gradients_know_the_rounding_of_their_residual(smallest):
    """Residuals in double precision are at most |b|, without a product to look."""
    rng = np.random.default_rng(0)
    bases = np.linalg.qr(rng.standard_normal((40, 20, 20)))[0]
    spectrum = np.where(np.arange(20) < 8, smallest, np.geomspace(0.01, 1, 20))
    matrices = np.einsum("cij,j,ckj->cik", bases, spectrum, bases)
    matrices = np.asarray(matrices + np.swapaxes(matrices, 1, 2), np.float32) / 2
    sides = rng.standard_normal((40, 20)).astype(np.float32)
    solver = solvers.conjugate_gradient(60, tol=0.0)

    def solve(matrix, b):
        def inner(w, h):
            return 0.5 * w @ matrix @ w + w @ h

        return -hypergrad(inner, lambda w, h: w @ b, 0 * b, 0 * b, solver=solver)

    found = np.float64(run_once(jax.vmap(solve), matrices, sides))
    residuals = np.einsum("cij,cj->ci", np.float64(matrices), found) - sides
    sizes = np.linalg.norm(residuals, axis=1) / np.linalg.norm(sides, axis=1)
    assert np.all(sizes <= 1 + 1e-5), sizes.max()
    assert np.median(sizes) < 0.8  # Of what is in range all is solved.
