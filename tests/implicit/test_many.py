"""Many outer losses at once: influence of train points on test points.

The truth is numpy's: the closed form of weighted ridge regression, and training again
without a point.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from autodo_jax.implicit import hypergrads, solvers, value_and_hypergrads
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once

DECAY = 0.3
NUM_TRAIN, NUM_TEST = 24, 5


@functools.cache
def ridge():
    rng = np.random.default_rng(0)
    x, test_x = rng.standard_normal((NUM_TRAIN, 3)), rng.standard_normal((NUM_TEST, 3))
    truth = np.array([1.0, -2.0, 0.5])
    y, test_y = x @ truth + rng.standard_normal(NUM_TRAIN), test_x @ truth
    return (x, y), (test_x, test_y)


def fit(weights):
    """The minimum of `inner`, in numpy."""
    x, y = ridge()[0]
    matrix = (x * weights[:, None]).T @ x + DECAY * np.eye(3)
    return np.linalg.solve(matrix, x.T @ (weights * y))


def inner(w, weights, x, y):
    return 0.5 * jnp.sum(weights * (x @ w - y) ** 2) + 0.5 * DECAY * jnp.sum(w**2)


def outer(w, weights, x, y):
    del weights
    return 0.5 * (x @ w - y) ** 2


def influence():
    """`dL_m/dweight_i` [M, N] by hand: `-(x_m w - y_m) x_m' H^-1 x_i (x_i w - y_i)`."""
    (x, y), (test_x, test_y) = ridge()
    w = fit(np.ones(NUM_TRAIN))
    hessian = x.T @ x + DECAY * np.eye(3)
    of_test = test_x * (test_x @ w - test_y)[:, None]
    of_train = x * (x @ w - y)[:, None]
    return -of_test @ np.linalg.solve(hessian, of_train.T)


def solve(solver, function=hypergrads, **options):
    train, test = jax.tree.map(jnp.asarray, ridge())
    weights = jnp.ones(NUM_TRAIN)
    w = jnp.asarray(fit(np.ones(NUM_TRAIN)))
    return run_once(
        lambda w, weights, train, test, options: function(
            inner,
            outer,
            w,
            weights,
            inner_args=train,
            outer_args=test,
            solver=solver,
            **options,
        ),
        w,
        weights,
        train,
        test,
        options,
    )


@pytest.mark.parametrize(
    "solver",
    [
        solvers.conjugate_gradient(5),
        solvers.minres(5),
        solvers.dense(),
        solvers.neumann(150),
    ],
    ids=["cg", "minres", "dense", "neumann"],
)
def test_influence_of_train_points(solver, x64):
    values, grads, info = solve(solver, value_and_hypergrads)
    assert_close("grads", grads, influence(), 1e-5)
    x, y = ridge()[1]
    np.testing.assert_allclose(values, 0.5 * (x @ fit(np.ones(NUM_TRAIN)) - y) ** 2)
    assert info.residual_norm.shape == (NUM_TEST,)
    assert info.solution.shape == (NUM_TEST, 3)
    np.testing.assert_allclose(info.residual_norm, 0, atol=1e-5)


def test_against_training_without_a_point(x64):
    """First order in the weight; for least squares the rest is known: `1 / (1 - l_i)`.

    `l_i` is the leverage of point i. Test losses are convex in the prediction, and so
    the change of a prediction, not of its loss, is compared.
    """
    (x, _), (test_x, test_y) = ridge()
    hessian = x.T @ x + DECAY * np.eye(3)
    leverage = np.einsum("ij,ij->i", x, np.linalg.solve(hessian, x.T).T)
    w = fit(np.ones(NUM_TRAIN))
    grads = np.asarray(solve(solvers.conjugate_gradient(5)))
    of_prediction = grads / (test_x @ w - test_y)[:, None]
    for i in range(NUM_TRAIN):
        without = np.ones(NUM_TRAIN)
        without[i] = 0
        change = test_x @ (fit(without) - w)
        expected = -of_prediction[:, i] / (1 - leverage[i])
        np.testing.assert_allclose(change, expected, rtol=1e-8)


def test_a_warm_start_for_each_loss(x64):
    solver = solvers.conjugate_gradient(50, tol=1e-9)
    _, expected, info = solve(solver, value_and_hypergrads)
    _, grads, again = solve(solver, value_and_hypergrads, x0=info.solution)
    assert_close("grads", grads, expected, 1e-8)
    np.testing.assert_array_equal(again.solver_info.num_iters, 0)


def test_the_forward_pass_is_shared():
    """That of the inner loss is taken at N points, not M times at N points."""

    def with_tanh(w, weights, x, y):
        return inner(w, weights, x, y) + jnp.sum(jnp.tanh(x @ w))

    def run(w, weights, train, test):
        return hypergrads(
            with_tanh, outer, w, weights, inner_args=train, outer_args=test
        )

    operands = jax.tree.map(jnp.float32, (np.ones(3), np.ones(NUM_TRAIN), *ridge()))
    text = jax.jit(run).lower(*operands).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.tanh" in line]
    assert lines and all(f"tensor<{NUM_TRAIN}xf32>" in line for line in lines)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shards_of_the_data(check_vma, x64):
    """Losses that are means over shards: rows of the mean over the devices."""
    mesh = jax.make_mesh(
        (2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    spec = PartitionSpec

    def local_inner(w, decay, x, y):
        return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * jnp.exp(decay) * jnp.sum(w**2)

    def local_outer(w, decay, x, y):
        errors = (x @ w - y) ** 2
        return jnp.stack([jnp.mean(errors), jnp.mean(jnp.sin(errors)) + decay**2])

    def run(w, decay, train, **options):
        return hypergrads(
            local_inner,
            local_outer,
            w,
            decay,
            inner_args=train,
            outer_args=train,
            solver=solvers.conjugate_gradient(5),
            **options,
        )

    operands = jnp.ones(3), jnp.array(-1.0), jax.tree.map(jnp.asarray, ridge()[0])
    sharded = jax.shard_map(
        functools.partial(run, axis_name="data"),
        mesh=mesh,
        in_specs=(spec(), spec(), spec("data")),
        out_specs=spec(),
        check_vma=check_vma,
    )
    assert_close("grads", run_once(sharded, *operands), run_once(run, *operands), 1e-9)


def test_what_is_refused():
    w = jnp.ones(3)

    def run(outer, **options):
        return hypergrads(lambda w, h: jnp.sum((w - h) ** 2), outer, w, w, **options)

    with pytest.raises(ValueError, match=r"`outer_losses`.*\[M\].*\(\)"):
        run(lambda w, h: jnp.sum(w))
    with pytest.raises(TypeError, match="`outer_has_aux`"):
        run(lambda w, h: w, outer_has_aux=True)
    with pytest.raises(TypeError, match="`outer_losses` must be a callable"):
        run(3)
