"""Curvatures against dense matrices made by numpy and by jax.hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from autodo_jax.implicit import curvature, hypergrad, solvers, value_and_hypergrad
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once

TOLERANCE = 1e-10


def network():
    """A two-layer network with a penalty: parameters, hyperparameters and a batch."""
    rng = np.random.default_rng(0)
    params = {
        "hidden": jnp.asarray(rng.standard_normal((3, 4))),
        "head": (jnp.asarray(rng.standard_normal((4, 3))), jnp.zeros(3)),
    }
    hparams = {"decay": jnp.asarray(-1.0), "weight": jnp.asarray(rng.random(8))}
    x = jnp.asarray(rng.standard_normal((8, 3)))
    labels = jax.nn.one_hot(rng.integers(0, 3, 8), 3, dtype=x.dtype)
    return params, hparams, (x, labels)


def logits_fn(params, hparams, x, labels):
    del hparams, labels
    kernel, bias = params["head"]
    return jnp.tanh(x @ params["hidden"]) @ kernel + bias[None]


def loss_on_logits(logits, params, hparams, x, labels):
    del x
    losses = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=1)
    flat = ravel_pytree(params)[0]
    decay = 0.5 * jnp.exp(hparams["decay"]) * jnp.sum(flat**2)
    return jnp.mean(hparams["weight"] * losses) + decay


def inner_loss(params, hparams, x, labels):
    logits = logits_fn(params, hparams, x, labels)
    return loss_on_logits(logits, params, hparams, x, labels)


def per_example_losses(params, hparams, x, labels):
    logits = logits_fn(params, hparams, x, labels)
    losses = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=1)
    return hparams["weight"] * losses


def materialised(make):
    """The matrix of a curvature, column by column; and the flat-to-tree map."""
    params, hparams, args = network()
    flat, unravel = ravel_pytree(params)

    def columns(params, hparams, args):
        matvec = make(inner_loss, params, hparams, args)
        return jax.vmap(lambda v: ravel_pytree(matvec(unravel(v)))[0])(
            jnp.eye(flat.size)
        ).T

    return np.asarray(run_once(columns, params, hparams, args)), flat, unravel


def jacobian_of(function):
    params, hparams, args = network()
    flat, unravel = ravel_pytree(params)
    return np.asarray(
        run_once(jax.jacrev(lambda w: function(unravel(w), hparams, *args)), flat)
    )


@pytest.mark.parametrize("damping", [0.0, 0.2])
@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse"])
def test_hessian(mode, damping, x64):
    _, hparams, args = network()
    got, flat, unravel = materialised(curvature.hessian(mode, damping))
    expected = run_once(
        jax.hessian(lambda w: inner_loss(unravel(w), hparams, *args)), flat
    )
    assert_close(mode, got, expected + damping * np.eye(flat.size), TOLERANCE)


@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_gauss_newton(damping, x64):
    """J' (softmax curvature) J in numpy, plus the decay of the loss on outputs."""
    params, hparams, args = network()
    got, flat, _ = materialised(
        curvature.gauss_newton(logits_fn, loss_on_logits, damping=damping)
    )
    jacobian = jacobian_of(logits_fn)  # [8, 3, P]
    logits = np.asarray(logits_fn(params, hparams, *args))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (np.exp(-1.0) + damping) * np.eye(flat.size)
    for i in range(8):
        on_logits = np.diag(p[i]) - np.outer(p[i], p[i])
        weight = float(hparams["weight"][i]) / 8
        expected = expected + weight * jacobian[i].T @ on_logits @ jacobian[i]
    assert_close("gauss_newton", got, expected, TOLERANCE)
    hessian, _, _ = materialised(curvature.hessian())
    assert np.linalg.norm(hessian - got) > 0.1  # The network is not linear.
    assert np.linalg.eigvalsh(got)[0] > 0


@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_fisher(damping, x64):
    got, flat, _ = materialised(curvature.fisher(per_example_losses, damping=damping))
    gradients = jacobian_of(per_example_losses)  # [8, P]
    expected = gradients.T @ gradients / 8 + damping * np.eye(flat.size)
    assert_close("fisher", got, expected, TOLERANCE)


def test_gauss_newton_is_exact_where_outputs_are_linear(x64):
    """The paper's head, P7: the outputs are linear in the parameters."""
    problem = problems.softmax_head()

    def outputs(w, hparams, x):
        del hparams
        return x @ w["kernel"]

    def loss_on_outputs(logits, w, hparams, x):
        del x
        weights = 1.4427 * jax.nn.softplus(hparams["weight"])
        labels = jax.nn.softmax(hparams["label"])
        losses = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=1)
        return jnp.mean(weights * losses) + 0.02 * jnp.sum(w["kernel"] ** 2)

    params, hparams, inner_args, outer_args = problem.operands
    got = run_once(
        lambda: hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.conjugate_gradient(40),
            curvature=curvature.gauss_newton(outputs, loss_on_outputs),
        )
    )
    assert_close("gauss_newton", got, problem.reference, TOLERANCE)


@pytest.mark.parametrize("kind", ["gauss_newton", "fisher", "own"])
def test_hypergradient_with_another_curvature(kind, x64):
    """The mixed derivative and the direct term stay those of the losses."""
    params, hparams, args = network()
    flat, unravel = ravel_pytree(params)
    makers = {
        "gauss_newton": curvature.gauss_newton(logits_fn, loss_on_logits),
        "fisher": curvature.fisher(per_example_losses, damping=0.3),
        "own": lambda inner_loss, params, hparams, inner_args: (
            lambda v: jax.tree.map(lambda leaf: 3.0 * leaf, v)
        ),
    }

    def outer(params, hparams):
        return jnp.sum(jnp.sin(ravel_pytree(params)[0])) + jnp.sum(
            hparams["weight"] ** 2
        )

    def run():
        return value_and_hypergrad(
            inner_loss,
            outer,
            params,
            hparams,
            inner_args=args,
            solver=solvers.conjugate_gradient(200),
            curvature=makers[kind],
        )

    _, got, info = run_once(run)
    matrix = 3.0 * np.eye(flat.size)
    if kind != "own":
        matrix = materialised(makers[kind])[0]
    x = np.linalg.solve(matrix, np.cos(np.asarray(flat)))
    lam, unravel_lam = ravel_pytree(hparams)

    def slope(lam):
        return jax.grad(lambda w: inner_loss(unravel(w), unravel_lam(lam), *args))(flat)

    mixed = np.asarray(run_once(jax.jacrev(slope), lam))  # [P, H]
    direct = np.concatenate([[0.0], 2 * np.asarray(hparams["weight"])])
    expected = unravel_lam(jnp.asarray(direct - x @ mixed))
    assert_close(kind, got, expected, 1e-9)
    np.testing.assert_allclose(info.residual_norm, 0, atol=1e-9)
    np.testing.assert_allclose(info.curvature, x @ matrix @ x / (x @ x), rtol=1e-9)


def test_in_half_precision():
    """bfloat16 parameters: products in it, sums outside in float32."""
    x = jnp.asarray([[1.0, 0.5], [0.25, 2.0], [1.0, -1.0]], jnp.bfloat16)
    y = jnp.asarray([1.0, 2.0, -1.0], jnp.bfloat16)

    def losses(w, h):
        return 0.5 * (x @ w - y) ** 2 + 0 * h

    def inner(w, h):
        return jnp.mean(losses(w, h)) + h * jnp.sum(w)

    makers = {
        "hessian": curvature.hessian(),
        "reverse": curvature.hessian("reverse-over-reverse"),
        "gauss_newton": curvature.gauss_newton(
            lambda w, h: x @ w,
            lambda out, w, h: jnp.mean(0.5 * (out - y) ** 2) + h * jnp.sum(w),
        ),
        "fisher": curvature.fisher(losses, damping=0.5),
    }
    w = jnp.asarray([0.5, 0.25], jnp.bfloat16)
    design = np.asarray(x, np.float64)
    residual = design @ np.asarray(w, np.float64) - np.asarray(y, np.float64)
    gradients = design * residual[:, None]
    fisher = gradients.T @ gradients / 3 + 0.5 * np.eye(2)
    for name, maker in makers.items():
        got = run_once(
            lambda maker=maker: hypergrad(
                inner,
                lambda w, h: jnp.sum(w),
                w,
                jnp.float32(0.0),
                solver=solvers.conjugate_gradient(8),
                curvature=maker,
            )
        )
        matrix = fisher if name == "fisher" else design.T @ design / 3
        expected = -np.linalg.solve(matrix, np.ones(2)).sum()
        np.testing.assert_allclose(got, expected, rtol=0.03, err_msg=name)
