"""Meta-Weight-Net on digits with wrong labels, warm starts all along.

A small network weighs each train point by its loss (Shu et al., 2019). Far from the
minimum the Hessian of the weighted loss is indefinite, and a warm start that grows
along negative curvature ends in NaN after some dozen steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from autodo_jax.implicit import solvers, value_and_hypergrad

NUM_OUTER, NUM_INNER, NUM_FIRST = 200, 20, 500
NUM_TRAIN, NUM_VALIDATION = 600, 200


@functools.cache
def digits():
    """Train points, 40 % of them with a random label, clean validation and test."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    x, y = x[order].astype(np.float32) / 16, y[order]
    parts = np.split(np.arange(len(y)), [NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION])
    noisy = y.copy()
    wrong = rng.random(NUM_TRAIN) < 0.4
    noisy[:NUM_TRAIN][wrong] = rng.integers(0, 10, wrong.sum())
    return tuple((jnp.asarray(x[part]), jnp.asarray(noisy[part])) for part in parts)


def losses(w, x, y):
    hidden = jnp.tanh(x @ w["w1"] + w["b1"][None])
    logits = hidden @ w["w2"] + w["b2"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def inner(w, lam, x, y):
    each = losses(w, x, y)
    hidden = jnp.tanh(each[:, None] * lam["a"][None] + lam["b"][None])
    weights = jax.nn.sigmoid(hidden @ lam["c"])
    return jnp.mean(weights * each) + 5e-4 * optax.tree.norm(w, squared=True)


def outer(w, lam, x, y):
    del lam
    return jnp.mean(losses(w, x, y))


def start():
    rng = np.random.default_rng(1)
    w = {
        "w1": 0.2 * rng.standard_normal((64, 16)),
        "b1": np.zeros(16),
        "w2": 0.3 * rng.standard_normal((16, 10)),
        "b2": np.zeros(10),
    }
    lam = {"a": rng.standard_normal(8), "b": np.zeros(8), "c": np.zeros(8)}
    return jax.tree.map(jnp.float32, (w, lam))


def descend(w, lam, data, num_steps):
    """Returns the weights after steps of gradient descent on the inner loss."""

    def step(w, _):
        slope = jax.grad(inner)(w, lam, *data)
        return jax.tree.map(lambda a, g: a - 0.5 * g, w, slope), None

    return jax.lax.scan(step, w, None, num_steps)[0]


@functools.partial(jax.jit, static_argnames=("solver", "is_warm"))
def train(w, lam, train_data, validation, *, solver, is_warm):
    """Returns the weights, and of each outer step if it is finite and the residual."""
    adam = optax.adam(1e-2)

    def step(state, _):
        w, lam, moments, x0 = state
        w = descend(w, lam, train_data, NUM_INNER)
        _, grads, info = value_and_hypergrad(
            inner,
            outer,
            w,
            lam,
            inner_args=train_data,
            outer_args=validation,
            solver=solver,
            x0=x0 if is_warm else None,
        )
        updates, moments = adam.update(grads, moments)
        state = w, optax.apply_updates(lam, updates), moments, info.solution
        return state, (info.grads_finite, info.residual_norm)

    w = descend(w, lam, train_data, NUM_FIRST)
    state = w, lam, adam.init(lam), jax.tree.map(jnp.zeros_like, w)
    (w, _, _, _), (finite, residuals) = jax.lax.scan(step, state, None, NUM_OUTER)
    return w, finite, residuals


def accuracy(w, x, y):
    hidden = np.tanh(np.asarray(x @ w["w1"] + w["b1"][None]))
    logits = hidden @ w["w2"] + w["b2"][None]
    return np.mean(np.argmax(logits, 1) == np.asarray(y))


def run(solver, is_warm):
    train_data, validation, test = digits()
    w, finite, residuals = train(
        *start(), train_data, validation, solver=solver, is_warm=is_warm
    )
    return accuracy(w, *test), np.asarray(finite), np.asarray(residuals)


@pytest.mark.slow
def test_warm_starts_over_a_training():
    """No NaN and no residual above 1; the default is as accurate as without them."""
    cold, _, _ = run(solvers.neumann(20), is_warm=False)
    assert cold > 0.9
    for solver in (
        solvers.neumann(20),
        solvers.conjugate_gradient(10),
        solvers.minres(10),
    ):
        warm, finite, residuals = run(solver, is_warm=True)
        assert finite.all(), solver
        assert residuals.max() <= 1 + 1e-5, solver
        if isinstance(solver, solvers.Neumann):
            assert warm >= cold - 0.01
