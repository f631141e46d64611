"""Vector arithmetic on pytrees that `optax.tree` does not have.

Solvers work on *vectors*: pytrees with the structure and shapes of the parameters and
leaves of at least float32, whatever the precision of the parameters.

Inner products are sums over whole leaves, never over a flattened copy: flattening makes
every device gather all shards of an array. Inside `jax.shard_map` a leaf may be one
shard of a parameter; `sharded_over` says over which axes to add its inner products.

A scalar that scales or selects vectors is best the result of a division, a root or an
exponential. XLA repeats cheap operations, among them the sum over all leaves of an
inner product, in the program of each leaf that uses their result, and compile time is
quadratic in the number of leaves then.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator

import chex
import jax
import jax.numpy as jnp

from autodo_jax._typing import AxisName, PyTree

_SHARDED_AXES: contextvars.ContextVar[frozenset] = contextvars.ContextVar(
    "axes of jax.shard_map over which parameters are sharded", default=frozenset()
)

# Leaves that `_by_type` combines.
_TOGETHER = 4


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
    return jax.tree.map(
        lambda x, y: x + jnp.asarray(factor, jnp.result_type(y)) * y, tree, other
    )


def interpolate(tree: PyTree, share: chex.Numeric, other: PyTree) -> PyTree:
    """Returns `tree + share * (other - tree)` without changing a dtype."""
    return jax.tree.map(
        lambda x, y: x + jnp.asarray(share, jnp.result_type(x)) * (y - x), tree, other
    )


def zeros_like(tree: PyTree) -> PyTree:
    """Returns zeros with the shapes, dtypes and shardings of `tree`."""
    return jax.tree.map(lambda leaf: vary_like(jnp.zeros_like(leaf), leaf), tree)


def vdot(tree: PyTree, other: PyTree) -> chex.Array:
    """Returns the inner product, over all shards of the leaves."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    products = _by_type((x * y for x, y in pairs), jnp.add)
    sums = [_over_shards(jax.lax.psum, jnp.sum(x), x) for x in products]
    return sum(sums, start=jnp.zeros((), jnp.result_type(*sums, jnp.float32)))


def norm(tree: PyTree) -> chex.Array:
    """Returns the Euclidean norm; tiny or huge leaves neither under- nor overflow."""
    return normalize(tree)[1]


def normalize(tree: PyTree) -> tuple[PyTree, chex.Array]:
    """Returns `(tree / |tree|, |tree|)`, and `(tree, 0)` for a tree of zeros.

    About the largest entry is divided out first: hypergradients of a mean over many
    points are small enough for their squares to underflow in float32. The barrier keeps
    the compiler from squaring a constant factor of the tree before that.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    if not leaves:
        return tree, jnp.zeros(())
    # The gradient of a maximum over devices is not defined, and is not needed: the norm
    # is the same whatever is divided out.
    magnitudes = _by_type(map(jnp.abs, jax.lax.stop_gradient(leaves)), jnp.maximum)
    maxima = [_over_shards(jax.lax.pmax, jnp.max(x), x) for x in magnitudes]
    largest = jnp.stack(maxima).max()
    # Within a factor of e. The exponential is for the compiler, see above.
    size = jnp.exp(jnp.trunc(jnp.log(largest)))
    scaled = scale(1 / nonzero(size), tree)
    scaled = jax.tree.map(jax.lax.optimization_barrier, scaled)  # Each its own axes.
    # The inner `where` keeps the derivative of a zero tree finite.
    is_zero = size == 0
    scaled_norm = jnp.sqrt(jnp.where(is_zero, 1, vdot(scaled, scaled)))
    return scale(1 / scaled_norm, scaled), scaled_norm * size


def nonzero(x: chex.Array) -> chex.Array:
    """Returns x, and 1 for 0: a denominator of what is zero then."""
    return jnp.where(x == 0, 1, x)


def epsilon(tree: PyTree) -> float:
    """Returns the machine epsilon of the coarsest type among the leaves."""
    return max(
        (float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree)),
        default=float(jnp.finfo(jnp.float32).eps),
    )


def select(condition: chex.Array, tree: PyTree, other: PyTree) -> PyTree:
    """Returns `tree` where the scalar `condition` holds, else `other`."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, other)


def all_finite(tree: PyTree) -> chex.Array:
    """Returns True if no leaf holds a NaN or an infinity."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.array(True)


def has_explicit_spec(leaf: chex.Array) -> bool:
    """Returns True of an array that is sharded over explicit axes of a mesh."""
    return any(entry is not None for entry in jax.typeof(leaf).sharding.spec)


def varying_axes(leaf: chex.Array) -> frozenset:
    """Returns the axes of an enclosing `jax.shard_map` over which `leaf` varies.

    Empty where `check_vma=False` does not track them.
    """
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)
    if manual is not None:
        return frozenset(manual.varying)
    return frozenset(getattr(kind, "vma", ()))


def vary_like(leaf: chex.Array, like: chex.Array) -> chex.Array:
    """Marks `leaf` as varying over the axes over which `like` varies."""
    missing = varying_axes(like) - varying_axes(leaf)
    return as_varying(leaf, tuple(missing)) if missing else leaf


def place_like(leaf: chex.Array, like: chex.Array) -> chex.Array:
    """Gives `leaf`, which every device has whole, the sharding of `like`."""
    if has_explicit_spec(like):
        leaf = jax.sharding.reshard(leaf, jax.typeof(like).sharding.spec)
    return vary_like(leaf, like)


def as_varying(leaf: chex.Array, name: AxisName) -> chex.Array:
    """Marks `leaf` as varying over an axis, or a tuple of axes, of a shard_map."""
    return jax.lax.pcast(leaf, name, to="varying")


@contextlib.contextmanager
def sharded_over(axes: frozenset) -> Iterator[None]:
    """Within it, inner products and norms are summed over the shards on `axes`.

    A leaf is summed over those of the axes over which it varies.
    """
    token = _SHARDED_AXES.set(axes)
    try:
        yield
    finally:
        _SHARDED_AXES.reset(token)


def shard_axes(leaf: chex.Array) -> tuple:
    """Returns the axes over which `leaf` is one shard of a parameter, sorted."""
    axes = _SHARDED_AXES.get()
    return tuple(sorted(axes & varying_axes(leaf))) if axes else ()


def _by_type(leaves: Iterable, combine: Callable) -> list:
    """Combines leaves of one shape and type entry by entry, a few at a time.

    One reduction of the result is less to compile than one of each leaf, and programs
    for the same number of leaves are compiled once.
    """
    groups: dict = {}
    for leaf in leaves:
        groups.setdefault(jax.typeof(leaf), []).append(leaf)
    return [
        functools.reduce(combine, group[i : i + _TOGETHER])
        for group in groups.values()
        for i in range(0, len(group), _TOGETHER)
    ]


def _over_shards(
    collective: Callable, value: chex.Array, leaf: chex.Array
) -> chex.Array:
    axes = shard_axes(leaf)
    return collective(value, axes) if axes else value
