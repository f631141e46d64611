"""Lambda (Sec. 4): one row of hyperparameters for each train point.

A dict of tables by name, for the sub-models in use only, with one row for each point:

    gate       lambda^Ab [N, A]  logits of the probability of each operation
    magnitude  lambda^Am [N, A]  logits of the standard deviation of its magnitude
    weight     lambda^W  [N]     loss weight before the softplus
    label      lambda^S  [N, C]  logits of the soft label

The shared augmentation (A_SHA) is a `gate` and a `magnitude` table of a single row.
"""

import math

import chex
import jax
import jax.numpy as jnp

Tables = dict[str, chex.Array]


def init(
    labels: chex.Array,
    *,
    num_classes: int,
    augment: str = "none",
    num_operations: int = 6,
    gate_probability: float = 0.25,
    weights: bool = False,
    soft_labels: bool = False,
    smoothing: float = 0.1,
) -> Tables:
    """Returns the initial Lambda.

    Args:
      labels: given labels, [N] integers.
      num_classes: C.
      augment: "per_point", "shared" (one row for all points) or "none".
      num_operations: A.
      gate_probability: initial probability of an open gate, in (0, 1). Paper: 0.25.
      weights: whether there are loss weights, initially 1.
      soft_labels: whether there are soft labels, initially the given ones, smoothed.
      smoothing: alpha of the label smoothing, in (0, 1). Paper: 0.1.

    Raises:
      ValueError: an unknown `augment`.
    """
    if augment not in ("per_point", "shared", "none"):
        raise ValueError(
            f"`augment` must be 'per_point', 'shared' or 'none', got {augment!r}."
        )
    tables: Tables = {}
    if augment != "none":
        rows = len(labels) if augment == "per_point" else 1
        logit = math.log(gate_probability / (1 - gate_probability))
        tables["gate"] = jnp.full((rows, num_operations), logit, jnp.float32)
        tables["magnitude"] = jnp.zeros((rows, num_operations), jnp.float32)
    if weights:
        tables["weight"] = jnp.zeros((len(labels),), jnp.float32)
    if soft_labels:
        # softmax of these is (1 - alpha) onehot + alpha / C exactly.
        gap = math.log(1 - num_classes + num_classes / smoothing)
        one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        tables["label"] = (one_hot - 0.5) * gap
    return tables


def loss_weights(weight_rows: chex.Array) -> chex.Array:
    """Sub-model g_W: `softplus(lambda^W) / ln 2` > 0, 1 at lambda = 0 (Sec. 4.2)."""
    return jax.nn.softplus(weight_rows) / math.log(2)


def log_soft_labels(label_rows: chex.Array) -> chex.Array:
    """Sub-model g_S: `log softmax(lambda^S)`, [B, C] (Sec. 4.2)."""
    return jax.nn.log_softmax(label_rows)
