"""Problems on which other libraries test implicit differentiation, with known answers.

Restated from what the tests of jaxopt and optimistix cover: roots, fixed points, ridge,
projections, the KKT system of a quadratic program, and a multiclass SVM. The answers
are closed forms or numpy's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import (
    hypergrad_root,
    implicit_argmin,
    implicit_fixed_point,
    implicit_root,
    solvers,
    value_and_hypergrad,
)
from tests.implicit.bank import assert_close
from tests.implicit.reference import relative_error, run_once


def both_jacobians(solve, *operands, expected, tolerance=1e-8):
    for mode in (jax.jacrev, jax.jacfwd):
        got = run_once(mode(solve), *operands)
        assert_close(mode.__name__, got, expected, tolerance)


def test_a_root_of_a_cubic(x64):
    """x^3 + x = a has dx/da = 1 / (3 x^2 + 1); x = 1, 2 at a = 2, 10."""
    roots = jnp.array([1.0, 2.0])
    solve = implicit_root(lambda x, a: x**3 + x - a)(lambda a: roots)
    expected = np.diag(1 / (3 * np.array([1.0, 4.0]) + 1))
    both_jacobians(solve, jnp.array([2.0, 10.0]), expected=expected)


def test_affine_and_trigonometric_fixed_points(x64):
    """x = A x + b has (I - A)^-1; x = cos(c x) has -x sin / (1 + c sin)."""
    matrix = 0.2 * np.random.default_rng(0).standard_normal((4, 4))
    inverse = np.linalg.inv(np.eye(4) - matrix)
    affine = implicit_fixed_point(lambda x, b: jnp.asarray(matrix) @ x + b)(
        lambda b: jnp.asarray(inverse) @ b
    )
    both_jacobians(affine, jnp.arange(4.0), expected=inverse)
    c, x = 0.8, 0.5
    for _ in range(200):
        x = np.cos(c * x)
    cosine = implicit_fixed_point(lambda x, c: jnp.cos(c * x))(lambda c: jnp.array(x))
    slope = np.sin(c * x)
    expected = -x * slope / (1 + c * slope)
    both_jacobians(cosine, jnp.array(c), expected=np.array(expected))


def test_ridge_in_its_penalty_and_its_data(x64):
    """w = M^-1 X'y / n, M = X'X / n + a I: dw/da = -M^-1 w, dw/dy = M^-1 X' / n."""
    x = np.random.default_rng(1).standard_normal((10, 3))
    y, a = x @ np.array([1.0, -2.0, 3.0]) + 0.5, 5.0
    matrix = x.T @ x / 10 + a * np.eye(3)
    w = np.linalg.solve(matrix, x.T @ y / 10)

    @implicit_argmin(
        lambda w, h: (
            0.5 * jnp.mean((jnp.asarray(x) @ w - h["y"]) ** 2)
            + 0.5 * h["a"] * jnp.sum(w**2)
        )
    )
    def solve(h):
        return jnp.asarray(w)

    inverse = np.linalg.inv(matrix)
    expected = {"a": -inverse @ w, "y": inverse @ x.T / 10}
    both_jacobians(solve, {"a": jnp.array(a), "y": jnp.asarray(y)}, expected=expected)


@pytest.mark.parametrize("make", [implicit_argmin, implicit_root])
def test_equations_without_a_hyperparameter(make, x64):
    """The last of three coupled leaves is all that h acts on: 2 a = b, 2 b = a + c."""
    matrix = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]])

    def quadratic(w, h):
        flat = jnp.stack([w["a"], w["b"], w["c"]])
        return 0.5 * flat @ jnp.asarray(matrix) @ flat - w["c"] * jnp.sin(h)

    function = quadratic if make is implicit_argmin else jax.grad(quadratic)
    inverse = np.linalg.inv(matrix)[:, 2]
    h = 0.3
    solve = make(function)(
        lambda h: dict(zip("abc", jnp.asarray(inverse) * jnp.sin(h), strict=True))
    )
    expected = dict(zip("abc", inverse * np.cos(h), strict=True))
    both_jacobians(solve, jnp.array(h), expected=expected)
    second = jax.grad(jax.grad(lambda h: solve(h)["a"]))(h)
    np.testing.assert_allclose(second, -inverse[0] * np.sin(h), rtol=1e-8)


def project_on_simplex(v):
    ordered = np.sort(v)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(v) + 1)
    return np.maximum(v - excess[np.sum(ordered > excess) - 1], 0)


def test_projections(x64):
    """Fixed points of projected steps, singular Jacobians of the step included.

    On the simplex with support S: 1_S - 1 1' / |S| there. On the ball, from outside:
    (I - v v' / |v|^2) / |v|. On a box: 1 where the bound is not active.
    """
    v = np.array([0.6, 0.5, -0.4, 0.2])
    x = project_on_simplex(v)
    on = (x > 0).astype(float)
    # KKT with the multiplier of the sum and the support as it is.
    simplex = implicit_root(
        lambda z, v: {
            "x": jnp.where(jnp.asarray(on) > 0, z["x"] - v + z["m"], z["x"]),
            "m": jnp.sum(z["x"]) - 1,
        }
    )(lambda v: {"x": jnp.asarray(x), "m": jnp.asarray((v - x)[0])})
    expected = np.diag(on) - np.outer(on, on) / on.sum()
    both_jacobians(lambda v: simplex(v)["x"], jnp.asarray(v), expected=expected)

    w = np.array([3.0, 4.0])

    def ball_step(x, v):
        moved = x - 0.5 * (x - v)
        return moved / jnp.maximum(jnp.linalg.norm(moved), 1)

    ball = implicit_fixed_point(ball_step)(lambda v: jnp.asarray(w / 5))
    expected = (np.eye(2) - np.outer(w, w) / 25) / 5
    both_jacobians(ball, jnp.asarray(w), expected=expected)

    box = implicit_fixed_point(lambda x, v: jnp.clip(x - 0.5 * (x - v), 0, 1))(
        lambda v: jnp.clip(v, 0, 1)
    )
    both_jacobians(box, jnp.array([-1.0, 0.3, 2.0]), expected=np.diag([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("solver", [None, solvers.dense()])
def test_the_kkt_system_of_a_quadratic_program(solver, x64):
    """min x'Qx/2 + c'x with A x = b: the inverse of the indefinite KKT matrix."""
    rng = np.random.default_rng(2)
    factor, a = rng.standard_normal((4, 4)), rng.standard_normal((2, 4))
    q = factor @ factor.T + np.eye(4)
    kkt = np.block([[q, a.T], [a, np.zeros((2, 2))]])
    inverse = np.linalg.inv(kkt)

    def lagrangian(z, h):
        x, nu = z["x"], z["nu"]
        return (
            0.5 * x @ jnp.asarray(q) @ x
            + h["c"] @ x
            + nu @ (jnp.asarray(a) @ x - h["b"])
        )

    h = {"b": jnp.array([1.0, -1.0]), "c": jnp.arange(4.0)}
    z = inverse @ np.concatenate([-np.asarray(h["c"]), np.asarray(h["b"])])
    solve = implicit_argmin(lagrangian, solver)(
        lambda h: {"x": jnp.asarray(z[:4]), "nu": jnp.asarray(z[4:])}
    )
    expected = {"b": inverse[:4, 4:], "c": -inverse[:4, :4]}
    both_jacobians(lambda h: solve(h)["x"], h, expected=expected)


def svm_step(beta, h, x, y):
    """A projected gradient step of the dual: each row of beta on the simplex."""
    w = x.T @ (y - beta) / h
    return jax.vmap(in_simplex)(beta - 0.05 * (1 - y - x @ w) * -1)


def in_simplex(v):
    ordered = -jnp.sort(-v)
    excess = (jnp.cumsum(ordered) - 1) / jnp.arange(1, v.size + 1)
    last = jnp.sum(ordered > excess) - 1
    return jnp.maximum(v - excess[last], 0)


def test_a_multiclass_svm_in_its_penalty(x64):
    """Against central differences of solving the dual again."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((12, 3)))
    y = jnp.eye(3)[rng.integers(0, 3, 12)]

    @jax.jit
    def iterate(h):
        start = jnp.full((12, 3), 1 / 3)
        step = lambda _, beta: svm_step(beta, h, x, y)  # noqa: E731
        return jax.lax.fori_loop(0, 4000, step, start)

    solve = implicit_fixed_point(svm_step)(lambda h, x, y: iterate(h))

    def weights(h, beta):
        return x.T @ (y - beta) / h

    h, small = 2.0, 1e-4
    above, below = (weights(h + s, iterate(h + s)) for s in (small, -small))
    assert jnp.max(jnp.abs(svm_step(iterate(h), h, x, y) - iterate(h))) < 1e-12
    got = run_once(jax.jacrev(lambda h: weights(h, solve(h, x, y))), jnp.array(h))
    assert_close("weights", got, (above - below) / (2 * small), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_weights_without_a_derivative(seed, x64):
    """A Meta-Weight-Net that sees the losses through `stop_gradient`.

    The fit ends where the update is zero, so `hypergrad_root` of the update has the
    derivative of the fit. `hypergrad` of the loss has not, and no diagnostic of it can
    see that: the hidden part of the Hessian is what `stop_gradient` takes away.
    """
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.standard_normal((40, 4)))
    y = x @ jnp.asarray(rng.standard_normal(4)) + jnp.asarray(
        rng.standard_normal(40) * np.repeat([0.1, 2.0], 20)
    )
    clean = jnp.asarray(rng.standard_normal(4))

    def inner(w, lam):
        each = 0.5 * (x @ w - y) ** 2
        weights = jax.nn.sigmoid(lam[0] - lam[1] * jax.lax.stop_gradient(each))
        return jnp.mean(weights * each) + 0.02 * w @ w

    def update(w, lam):
        """The gradient of the loss, weights and all, written out."""
        error = x @ w - y
        weights = jax.nn.sigmoid(lam[0] - lam[1] * 0.5 * error**2)
        return x.T @ (weights * error) / len(error) + 0.04 * w

    def outer(w, lam):
        del lam
        return jnp.sum((w - clean) ** 2)

    @jax.jit
    def fit(lam):
        def step(w, _):
            slope = jax.jacobian(update)(w, lam)
            return w - jnp.linalg.solve(slope, update(w, lam)), None

        start = jnp.linalg.lstsq(x, y)[0]
        return jax.lax.scan(step, start, None, 30)[0]

    lam, h = jnp.array([1.0, 0.5]), 1e-5
    w = fit(lam)
    sides = [[outer(fit(lam + s * h * e), None) for s in (1, -1)] for e in np.eye(2)]
    expected = np.array([(above - below) / (2 * h) for above, below in sides])
    for solver in (solvers.normal_cg(100, symmetric=False), solvers.dense()):
        got = hypergrad_root(update, outer, w, lam, solver=solver)
        assert_close("root", got, expected, 1e-6)
    _, grads, info = value_and_hypergrad(inner, outer, w, lam, solver=solvers.dense())
    assert max(info.inner_grad_norm, info.residual_norm) < 1e-10
    assert info.curvature > 0 and bool(info.grads_finite)
    assert relative_error(grads, expected) > 0.1
