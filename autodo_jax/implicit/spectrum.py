"""The largest eigenvalue of a curvature, and the step size that follows from it."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, loops, tree
from autodo_jax.implicit.linear import Matvec

# Products of the power iteration of "auto", for `largest_eigenvalue`.
AUTO_NUM_STEPS = 16
_AUTO_MARGIN = 1.05
# The compiler takes .2 s for the draw of each leaf.
_MAX_DRAWS = 8


def largest_eigenvalue(
    matvec: Matvec, like: PyTree, key: chex.PRNGKey | None = None, num_steps: int = 20
) -> chex.Array:
    """Estimates the largest |eigenvalue| of a symmetric A by power iteration.

    The estimate is the norm of a product with a unit vector and so a lower bound,
    usually within a few percent after 20 steps. Takes `num_steps` products.

    Args:
      matvec: `v -> A v`.
      like: pytree with the shapes of v.
      key: of the random start; None: a fixed one.
      num_steps: number of products, >= 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> scales = jnp.array([1.0, 4.0])
      >>> round(float(solvers.largest_eigenvalue(lambda v: scales * v, jnp.ones(2))), 3)
      4.0
    """
    checks.check_count("num_steps", num_steps, minimum=1)
    key = jax.random.key(0) if key is None else key
    like = tree.promote(jax.tree.map(jnp.asarray, like))

    def step(
        _: chex.Numeric, carry: tuple[PyTree, chex.Array]
    ) -> tuple[PyTree, chex.Array]:
        return tree.normalize(matvec(carry[0]))

    start = _random_like(key, like)
    norm = jnp.sqrt(tree.vdot(start, start))
    carry = tree.scale(1 / tree.nonzero(norm), start), norm
    return loops.repeat(num_steps, step, carry)[1]


def auto_step_size(largest: chex.Numeric) -> chex.Array:
    """Returns the step size "auto" of the Neumann series: `1 / (1.05 * largest)`.

    Power iteration approaches the largest eigenvalue from below, so the inverse of its
    estimate is longer than `1 / lambda_max`. The margin of 5 % makes up for that.

    Args:
      largest: estimate of the largest eigenvalue, such as `largest_eigenvalue` returns
        after `AUTO_NUM_STEPS` products. For an estimate that is not positive, as
        for A = 0, the step is 1.

    Examples:
      >>> from autodo_jax import solvers
      >>> round(float(solvers.auto_step_size(2.0)), 3)  # below 2 / lambda_max = 1
      0.476
    """
    bound = _AUTO_MARGIN * largest
    return 1 / jnp.where(bound > 0, bound, 1)


def _random_like(key: chex.PRNGKey, like: PyTree) -> PyTree:
    """Returns a vector without a pattern: normal draws, or hashes of the positions.

    Hashes, in [-1, 1), compile in a fraction of the time where there are many leaves,
    and each device computes them for its own shard alone.
    """
    structure: Any
    leaves, structure = jax.tree.flatten(like)
    if len(leaves) <= _MAX_DRAWS and not any(map(tree.shard_axes, leaves)):
        draws = optax.tree.random_like(key, like, jax.random.normal)
        return jax.tree.map(tree.place_like, draws, like)
    words = jax.random.key_data(key).ravel()
    seed = sum(words[i] * jnp.uint32(2 * i + 1) for i in range(words.size))
    patterns: dict = {}
    starts = []
    for leaf in leaves:
        # A program for each shape, which the compiler takes for all leaves of it. It
        # would put a cheaper operation than a remainder into what uses the result.
        kind = jax.typeof(leaf)
        last = patterns[kind] if kind in patterns else _pattern(seed, leaf)
        patterns[kind] = jax.lax.rem(last + 0.618034, jnp.ones_like(last))
        starts.append(2 * patterns[kind] - 1)
    return structure.unflatten(starts)


def _pattern(seed: chex.Array, like: chex.Array) -> chex.Array:
    """Returns hashes of the positions in all of the parameter, in [0, 1)."""
    position = jnp.uint32(len(like.shape))
    for name in tree.shard_axes(like):
        position = position * 8191 + jax.lax.axis_index(name).astype(jnp.uint32)
    position = position * 65599
    for axis, length in enumerate(like.shape):
        iota = jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis)
        position = position * (length + 1) + iota
    # The finalizer of MurmurHash3.
    bits = (position + seed) * jnp.uint32(2654435769)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    bits = (bits ^ (bits >> 16)) >> 9  # What float32 can hold.
    return tree.place_like(bits.astype(like.dtype) / math.ldexp(1, 23), like)
