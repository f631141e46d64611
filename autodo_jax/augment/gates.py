"""Relaxed Bernoulli gates and Gaussian magnitudes of g_A, for one point (Sec. 4.1).

Both are reparameterized: a draw is a differentiable function of the logits and of noise
that does not depend on them.
"""

import chex
import jax


def sample_gates(
    key: chex.PRNGKey, logits: chex.Array, *, temperature: float = 1.0
) -> chex.Array:
    """Draws `b ~ Bernoulli(sigmoid(logits))` with a straight-through gradient.

    In the forward pass the draw is hard, 0 or 1. In the backward pass it is the binary
    concrete variable (the Gumbel-softmax over two outcomes) of the same noise.

    Args:
      key: PRNG key.
      logits: lambda^Ab, any shape.
      temperature: of the relaxation, > 0.

    Returns:
      Array like `logits`, each entry 0 or 1.
    """
    # The difference of two Gumbel variables is logistic.
    noise = jax.random.logistic(key, logits.shape, logits.dtype)
    soft = jax.nn.sigmoid((logits + noise) / temperature)
    hard = (logits + noise > 0).astype(logits.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))  # The bracket is exactly 0.


def sample_magnitudes(
    key: chex.PRNGKey,
    logits: chex.Array,
    *,
    mean: chex.Array,
    unit: chex.Array,
) -> chex.Array:
    """Draws `m = mean + unit * sigmoid(logits) * eps`, eps standard normal.

    Args:
      key: PRNG key.
      logits: lambda^Am, any shape; 0 is the middle of the standard deviation's range.
      mean: mu, broadcastable to `logits`.
      unit: `rng * M / 10`, the largest standard deviation, broadcastable to `logits`.
    """
    epsilon = jax.random.normal(key, logits.shape, logits.dtype)
    return mean + unit * jax.nn.sigmoid(logits) * epsilon
