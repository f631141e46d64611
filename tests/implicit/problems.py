"""Bilevel problems whose hypergradient is known without the library under test.

Each problem holds an inner and an outer loss, a point where the inner one is
stationary, and a `reference` hypergradient in double precision: reverse mode through a
direct solve, through Newton's method or through an unrolled map, or a closed form. The
eigenvalues of the inner Hessian come from numpy.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from tests.implicit.reference import Problem, newton, run_once

PyTree = Any


def _solved(inner, outer, solve, hparams, inner_args=(), outer_args=()) -> Problem:
    """Completes a problem by a differentiable `solve`, in double precision."""
    with jax.enable_x64(True):
        operands = jax.tree.map(jnp.asarray, (hparams, inner_args, outer_args))

        def complete(hparams, inner_args, outer_args):
            params = solve(hparams, *inner_args)
            flat, unravel = ravel_pytree(params)
            reference = jax.grad(
                lambda h: outer(solve(h, *inner_args), h, *outer_args)
            )(hparams)
            hessian = jax.hessian(lambda w: inner(unravel(w), hparams, *inner_args))(
                flat
            )
            return params, reference, hessian

        params, reference, hessian = jax.tree.map(
            np.asarray, run_once(complete, *operands)
        )
        hparams, inner_args, outer_args = jax.tree.map(np.asarray, operands)
    return Problem(
        inner, outer, params, hparams, inner_args, outer_args, reference, hessian, solve
    )


def _regression(seed: int, num_points: int, num_features: int, noise: float = 0.3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, num_points, num_features))
    y = x @ rng.standard_normal(num_features)
    y = y + noise * rng.standard_normal(y.shape)
    return (x[0], y[0]), (x[1], y[1])


def half_mse(params, x, y):
    return 0.5 * jnp.mean((x @ params - y) ** 2)


def _validation(params, hparams, x, y):
    del hparams
    return half_mse(params, x, y)


@functools.cache
def feature_ridge() -> Problem:
    """P1: ridge regression with a penalty for each feature."""

    def inner(w, log_penalty, x, y):
        return half_mse(w, x, y) + 0.5 * jnp.sum(jnp.exp(log_penalty) * w**2)

    def solve(log_penalty, x, y):
        matrix = x.T @ x / y.size + jnp.diag(jnp.exp(log_penalty))
        return jnp.linalg.solve(matrix, x.T @ y / y.size)

    train, val = _regression(1, 80, 6)
    return _solved(inner, _validation, solve, np.linspace(-2.0, 0.5, 6), train, val)


@functools.cache
def scalar_ridge() -> Problem:
    """P1b: ridge regression with one scalar penalty and a direct term."""

    def inner(w, hparams, x, y):
        return half_mse(w, x, y) + 0.5 * jnp.exp(hparams["c"]) * jnp.sum(w**2)

    def outer(w, hparams, x, y):
        return half_mse(w, x, y) + 0.1 * hparams["c"] ** 2

    def solve(hparams, x, y):
        matrix = x.T @ x / y.size + jnp.exp(hparams["c"]) * jnp.eye(x.shape[1])
        return jnp.linalg.solve(matrix, x.T @ y / y.size)

    train, val = _regression(2, 80, 6)
    return _solved(inner, outer, solve, {"c": np.float64(-0.7)}, train, val)


@functools.cache
def weighted_least_squares() -> Problem:
    """P2: a weight for each train point, as in the paper."""

    def weights(hparams):
        return 1.4427 * jax.nn.softplus(hparams)

    def inner(w, hparams, x, y):
        return 0.5 * jnp.mean(weights(hparams) * (x @ w - y) ** 2)

    def solve(hparams, x, y):
        weighted = x * weights(hparams)[:, None]
        return jnp.linalg.solve(weighted.T @ x, weighted.T @ y)

    train, val = _regression(3, 60, 5, noise=1.0)
    hparams = np.random.default_rng(3).standard_normal(60)
    return _solved(inner, _validation, solve, hparams, train, val)


@functools.cache
def learned_targets() -> Problem:
    """P3: the regression targets are the hyperparameters (soft labels)."""

    def inner(w, targets, x):
        return half_mse(w, x, targets) + 0.05 * jnp.sum(w**2)

    def solve(targets, x):
        matrix = x.T @ x / targets.size + 0.1 * jnp.eye(x.shape[1])
        return jnp.linalg.solve(matrix, x.T @ targets / targets.size)

    (x, y), val = _regression(4, 60, 5)
    return _solved(inner, _validation, solve, y, (x,), val)


def coupled_matrices(low_rank: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric 12 x 12 matrix without zero blocks, and a coupling to 4 numbers."""
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    eigenvalues = np.geomspace(0.05, 5.0, 12)
    if low_rank is not None:
        eigenvalues[:-low_rank] = 0.0
    return basis @ np.diag(eigenvalues) @ basis.T, rng.standard_normal((12, 4))


def coupled_tree(flat) -> PyTree:
    return {"a": flat[:6].reshape(2, 3), "b": (flat[6:],)}


def coupled_inner(params, hparams, hessian, coupling):
    flat = ravel_pytree(params)[0]
    return 0.5 * flat @ hessian @ flat + flat @ coupling @ hparams


def coupled_outer(params, hparams, target):
    flat = ravel_pytree(params)[0]
    return 0.5 * jnp.sum((flat - target) ** 2) + jnp.sum(jnp.sin(hparams))


@functools.cache
def coupled_quadratic() -> Problem:
    """P4: nested parameters whose leaves are coupled, and a direct term; kappa 100.

    The reference is the closed form `cos(h) - B' H^-1 (w - t)`, in numpy.
    """
    hessian, coupling = coupled_matrices()
    rng = np.random.default_rng(6)
    hparams, target = rng.standard_normal(4), rng.standard_normal(12)
    flat = -np.linalg.solve(hessian, coupling @ hparams)
    adjoint = np.linalg.solve(hessian, flat - target)

    def solve(hparams, hessian, coupling):
        return coupled_tree(-jnp.linalg.solve(hessian, coupling @ hparams))

    return Problem(
        coupled_inner,
        coupled_outer,
        coupled_tree(flat),
        hparams,
        (hessian, coupling),
        (target,),
        np.cos(hparams) - coupling.T @ adjoint,
        hessian,
        solve,
    )


@functools.cache
def proximal() -> Problem:
    """P5: iMAML's proximal inner problem; closed form `(I + X'X / (n c))^-1 g`."""
    strength = 1.5

    def inner(w, start, x, y):
        return half_mse(w, x, y) + 0.5 * strength * jnp.sum((w - start) ** 2)

    def solve(start, x, y):
        matrix = x.T @ x / y.size + strength * jnp.eye(x.shape[1])
        return jnp.linalg.solve(matrix, x.T @ y / y.size + strength * start)

    train, val = _regression(7, 40, 6)
    start = np.random.default_rng(7).standard_normal(6)
    problem = _solved(inner, _validation, solve, start, train, val)
    outer_grad = val[0].T @ (val[0] @ problem.params - val[1]) / 40
    system = np.eye(6) + train[0].T @ train[0] / (40 * strength)
    closed_form = np.linalg.solve(system, outer_grad)
    return dataclasses.replace(problem, reference=closed_form)


@functools.cache
def logistic() -> Problem:
    """P6: logistic regression with a penalty for each coordinate."""

    def loss(w, x, y):
        return jnp.mean(jax.nn.softplus(-y * (x @ w)))

    def inner(w, log_penalty, x, y):
        return loss(w, x, y) + 0.5 * jnp.sum(jnp.exp(log_penalty) * w**2)

    def solve(log_penalty, x, y):
        start = jnp.zeros_like(log_penalty)
        return newton(lambda w: inner(w, log_penalty, x, y), start, 40)

    (x, y), (val_x, val_y) = _regression(8, 60, 5, noise=1.0)
    train, val = (x, np.sign(y)), (val_x, np.sign(val_y))
    return _solved(
        inner,
        lambda w, h, *args: loss(w, *args),
        solve,
        np.linspace(-2, 0, 5),
        train,
        val,
    )


@functools.cache
def softmax_head() -> Problem:
    """P7: softmax regression with a weight and a soft label for each train point."""

    def cross_entropy(w, x, labels):
        return -jnp.sum(labels * jax.nn.log_softmax(x @ w["kernel"]), axis=1)

    def inner(w, hparams, x):
        weights = 1.4427 * jax.nn.softplus(hparams["weight"])
        labels = jax.nn.softmax(hparams["label"])
        decay = 0.02 * jnp.sum(w["kernel"] ** 2)
        return jnp.mean(weights * cross_entropy(w, x, labels)) + decay

    def outer(w, hparams, x, labels):
        del hparams
        return jnp.mean(cross_entropy(w, x, labels))

    def solve(hparams, x):
        start = {"kernel": jnp.zeros((x.shape[1], 3), x.dtype)}
        return newton(lambda w: inner(w, hparams, x), start, 15)

    rng = np.random.default_rng(9)
    x, val_x = rng.standard_normal((2, 40, 4))
    teacher = rng.standard_normal((4, 3))
    logits = x @ teacher + rng.standard_normal((40, 3))
    labels = np.eye(3)[np.argmax(val_x @ teacher, axis=1)]
    hparams = {"weight": rng.standard_normal(40), "label": logits}
    return _solved(inner, outer, solve, hparams, (x,), (val_x, labels))


@functools.cache
def equilibrium() -> Problem:
    """P8: root of `z - tanh(W z + U x)`, |W| = 0.7, not symmetric; 200 unrolled steps.

    `inner` is the optimality function; `hessian` its Jacobian, by numpy.
    """

    def layer(z, hparams, x):
        return jnp.tanh(hparams["w"] @ z + hparams["u"] @ x)

    def optimality(z, hparams, x):
        return z - layer(z, hparams, x)

    def outer(z, hparams, target):
        return 0.5 * jnp.sum((z - target) ** 2) + 0.1 * jnp.sum(hparams["u"] ** 2)

    def solve(hparams, x):
        start = jnp.zeros(hparams["w"].shape[0], x.dtype)
        step = lambda z, _: (layer(z, hparams, x), None)  # noqa: E731
        return jax.lax.scan(step, start, None, length=200)[0]

    rng = np.random.default_rng(10)
    w = rng.standard_normal((5, 5))
    hparams = {"w": 0.7 * w / np.linalg.norm(w, 2), "u": rng.standard_normal((5, 3))}
    x, target = rng.standard_normal(3), rng.standard_normal(5)
    with jax.enable_x64(True):
        reference = run_once(jax.grad(lambda h: outer(solve(h, x), h, target)), hparams)
        params = np.asarray(run_once(solve, hparams, x))
    slopes = 1 - np.tanh(hparams["w"] @ params + hparams["u"] @ x) ** 2
    return Problem(
        optimality,
        outer,
        params,
        hparams,
        (x,),
        (target,),
        jax.tree.map(np.asarray, reference),
        np.eye(5) - slopes[:, None] * hparams["w"],
        solve,
    )


@functools.cache
def isotropic() -> Problem:
    """A Hessian of 2 I: closed form `w - t`; conjugate gradients end after one step."""
    rng = np.random.default_rng(11)
    hparams, target = rng.standard_normal((2, 4))

    def inner(w, h):
        return jnp.sum((w - h) ** 2)

    def outer(w, h, target):
        del h
        return 0.5 * jnp.sum((w - target) ** 2)

    reference = hparams - target
    return Problem(
        inner,
        outer,
        hparams,
        hparams,
        (),
        (target,),
        reference,
        2 * np.eye(4),
        lambda h: h,
    )


MINIMA: dict[str, Callable[[], Problem]] = {
    "P1 feature ridge": feature_ridge,
    "P1b scalar ridge": scalar_ridge,
    "P2 weighted least squares": weighted_least_squares,
    "P3 learned targets": learned_targets,
    "P4 coupled quadratic": coupled_quadratic,
    "P5 proximal": proximal,
    "P6 logistic": logistic,
    "P7 softmax head": softmax_head,
    "isotropic": isotropic,
}
