"""Diagonal and Kronecker preconditioners against matrices that numpy inverts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import preconditioners, solvers
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once


@functools.cache
def positive(seed, size):
    factor = np.random.default_rng(seed).standard_normal((size, size))
    return factor @ factor.T + 0.1 * np.eye(size)


def test_the_diagonal_of_a_diagonal_matrix(x64):
    """Exact from one product: z_i d_i z_i = d_i."""
    scales = {"a": jnp.arange(1.0, 7.0).reshape(2, 3), "b": jnp.array([5.0])}
    got = run_once(
        lambda scales: preconditioners.hutchinson(
            lambda v: jax.tree.map(jnp.multiply, scales, v),
            scales,
            jax.random.key(0),
            num_products=1,
        ),
        scales,
    )
    assert_close("diagonal", got, scales, 1e-12)


def test_the_diagonal_of_a_dense_matrix(x64):
    """Unbiased: the error falls as one over the root of the number of products."""
    matrix = positive(0, 6)

    def estimate(key):
        return preconditioners.hutchinson(
            lambda v: jnp.asarray(matrix) @ v, jnp.zeros(6), key, 16
        )

    got = run_once(jax.vmap(estimate), jax.random.split(jax.random.key(1), 200))
    rest = np.sqrt(np.sum(matrix**2, 1) - np.diag(matrix) ** 2)
    deviations = (np.asarray(got) - np.diag(matrix)) / (rest / 4)
    assert np.abs(deviations.mean(0)).max() < 5 / np.sqrt(200)
    np.testing.assert_allclose(deviations.std(0), 1, atol=0.25)


@pytest.mark.parametrize("make", [solvers.conjugate_gradient, solvers.minres])
def test_parameters_with_scales_of_their_own(make, x64):
    """Scales over three decades: the condition of the rest is left."""
    roots = 10.0 ** np.linspace(-1.5, 1.5, 30)
    rest = np.eye(30) + 0.3 * positive(2, 30) / 60
    matrix = roots[:, None] * rest * roots

    def run(key, b):
        product = lambda v: jnp.asarray(matrix) @ v  # noqa: E731
        found = preconditioners.hutchinson(product, b, key, 4)
        return [
            make(200, tol=1e-10, preconditioner=m)(product, b)
            for m in (None, preconditioners.diagonal(found, 1e-6))
        ]

    (_, plain), (x, info) = run_once(run, jax.random.key(0), jnp.ones(30))
    assert info.num_iters < 40 < plain.num_iters
    assert_close("x", x, np.linalg.solve(matrix, np.ones(30)), 1e-6)


@pytest.mark.parametrize("make", [solvers.conjugate_gradient, solvers.minres])
def test_kronecker_products_are_inverted(make, x64):
    """One product solves the damped layers; the bias has a diagonal of its own."""
    a, b, bias = positive(3, 4), positive(4, 3), np.array([1.0, 2.0, 3.0])
    dense = np.kron(a, b) + 0.2 * np.eye(12)
    v = {"bias": jnp.arange(1.0, 4.0), "kernel": jnp.arange(12.0).reshape(4, 3)}

    def product(v):
        kernel = jnp.asarray(a) @ v["kernel"] @ jnp.asarray(b) + 0.2 * v["kernel"]
        return {"bias": v["bias"] * (bias + 0.2), "kernel": kernel}

    def made(a, b):
        factors = {"kernel": preconditioners.Factors(a, b), "bias": jnp.asarray(bias)}
        return preconditioners.kronecker(factors, 0.2)

    # It comes out of one program and goes into another.
    m = run_once(made, jnp.asarray(a), jnp.asarray(b))
    got = run_once(lambda m, v: m(v), m, v)
    flat = np.linalg.solve(dense, np.arange(12.0)).reshape(4, 3)
    expected = {"bias": np.arange(1.0, 4.0) / (bias + 0.2), "kernel": flat}
    assert_close("inverse", got, expected, 1e-10)
    x, info = run_once(lambda m, v: make(9, preconditioner=m)(product, v), m, v)
    assert info.num_iters <= 2
    assert_close("x", x, expected, 1e-10)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`damping` must be a positive number, got 0"):
        preconditioners.diagonal(jnp.ones(2), 0.0)
    with pytest.raises(ValueError, match="`damping`"):
        preconditioners.kronecker(jnp.ones(2), -1.0)
    with pytest.raises(ValueError, match=r"square.*\(2, 3\)"):
        preconditioners.kronecker(
            [preconditioners.Factors(jnp.eye(2), jnp.ones((2, 3)))], 1.0
        )
    with pytest.raises(ValueError, match="`num_products`"):
        preconditioners.hutchinson(lambda v: v, jnp.ones(2), jax.random.key(0), 0)
