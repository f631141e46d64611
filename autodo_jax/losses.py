"""Losses of single points, [B, C] logits -> [B] (Sec. 4.2).

They work on logarithms of probabilities, so that no logit, however large, gives a NaN
or an infinite gradient.
"""

import chex
import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """Cross-entropy `-log p[y]` for integer labels [B]."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def kl_to_soft_labels(logits: chex.Array, log_targets: chex.Array) -> chex.Array:
    """Divergence `KL(y^S || p)`; `log_targets` [B, C] are log-probabilities."""
    targets = jnp.exp(log_targets)
    return jnp.sum(targets * (log_targets - jax.nn.log_softmax(logits)), axis=-1)


def symmetric_kl(logits: chex.Array, log_targets: chex.Array) -> chex.Array:
    """Divergence `[KL(y^S || p) + KL(p || y^S)] / 2`.

    `log_targets` [B, C] are log-probabilities.
    """
    log_p = jax.nn.log_softmax(logits)
    difference = jnp.exp(log_targets) - jnp.exp(log_p)
    return jnp.sum(difference * (log_targets - log_p), axis=-1) / 2


def l2_penalty(params: chex.ArrayTree, weight_decay: float) -> chex.Array:
    """Penalty `weight_decay / 2 * |params|^2`; its gradient is SGD's weight decay."""
    return weight_decay / 2 * optax.tree.norm(params, squared=True)
