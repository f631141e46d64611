"""Vector arithmetic on pytrees that `optax.tree` does not have.

Solvers work on *vectors*: pytrees with the structure and shapes of the parameters and
leaves of at least float32, whatever the precision of the parameters.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree


def promote(tree: PyTree) -> PyTree:
    """Casts bfloat16 and float16 leaves to float32; wider leaves stay as they are."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree
    )


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Casts each leaf to the dtype of the corresponding leaf of `like`."""
    return jax.tree.map(lambda leaf, other: jnp.asarray(leaf, other.dtype), tree, like)


def scale(factor: chex.Numeric, tree: PyTree) -> PyTree:
    """Returns `factor * tree` without changing a dtype."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(factor, jnp.result_type(leaf)) * leaf, tree
    )


def add_scaled(tree: PyTree, factor: chex.Numeric, other: PyTree) -> PyTree:
    """Returns `tree + factor * other` without changing a dtype."""
    return optax.tree.add(tree, scale(factor, other))


def norm(tree: PyTree) -> chex.Array:
    """Returns the Euclidean norm; tiny or huge leaves neither under- nor overflow."""
    return normalize(tree)[1]


def normalize(tree: PyTree) -> tuple[PyTree, chex.Array]:
    """Returns `(tree / |tree|, |tree|)`, and `(tree, 0)` for a tree of zeros.

    The largest entry is divided out first: hypergradients of a mean over many points
    are small enough for their squares to underflow in float32.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    if not leaves:
        return tree, jnp.zeros(())
    largest = jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]).max()
    # Both `where`s keep the derivative of a zero tree finite.
    is_zero = largest == 0
    scaled = scale(1 / jnp.where(is_zero, 1, largest), tree)
    squared = optax.tree.vdot(scaled, scaled)
    scaled_norm = jnp.sqrt(jnp.where(is_zero, 1, squared))
    return scale(1 / scaled_norm, scaled), jnp.where(is_zero, 0, scaled_norm * largest)


def all_finite(tree: PyTree) -> chex.Array:
    """Returns True if no leaf holds a NaN or an infinity."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.array(True)
