"""Losses against scipy's entropies and in the corners where they could overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from autodo_jax import losses

RNG = np.random.default_rng(0)
LOGITS, TARGETS = (
    RNG.normal(size=(6, 4)) * 3,
    scipy.special.softmax(RNG.normal(size=(6, 4)), axis=1),
)
P = scipy.special.softmax(LOGITS, axis=1)


def test_kl_equals_scipy():
    got = losses.kl_to_soft_labels(jnp.asarray(LOGITS), jnp.log(TARGETS))
    np.testing.assert_allclose(got, scipy.stats.entropy(TARGETS, P, axis=1), rtol=1e-4)


def test_symmetric_kl_equals_scipy():
    got = losses.symmetric_kl(jnp.asarray(LOGITS), jnp.log(TARGETS))
    both = scipy.stats.entropy(TARGETS, P, axis=1) + scipy.stats.entropy(
        P, TARGETS, axis=1
    )
    np.testing.assert_allclose(got, both / 2, rtol=1e-4)


def test_cross_entropy_is_minus_the_log_probability():
    labels = np.array([0, 1, 2, 3, 0, 1])
    got = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels))
    np.testing.assert_allclose(got, -np.log(P[np.arange(6), labels]), rtol=1e-4)


def test_extreme_logits_keep_losses_and_gradients_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    log_targets = jax.nn.log_softmax(jnp.array([[-100.0, 100.0, 0.0]]))
    for loss in (losses.symmetric_kl, losses.kl_to_soft_labels):
        value, grads = jax.value_and_grad(
            lambda z, t, loss=loss: loss(z, t).sum(), argnums=(0, 1)
        )(logits, log_targets)
        assert np.isfinite(value)
        assert all(np.isfinite(grad).all() for grad in grads)


def test_l2_penalty_has_sgds_weight_decay_as_gradient():
    params = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    grads = jax.grad(losses.l2_penalty)(params, 1e-2)
    jax.tree.map(
        lambda g, p: np.testing.assert_allclose(g, 1e-2 * p, rtol=1e-6), grads, params
    )
