"""Solvers that materialise the matrix or a part of it."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.linear import HashableOptions, Matvec, damp, is_zero


def nystrom(rank: int, damping: float, key: chex.PRNGKey) -> "Nystrom":
    """Solves with `A_rank + damping I`, A_rank the randomized Nystrom approximation.

    `A_rank = Y (Q' Y)^+ Y'` with `Y = A Q` for a random orthonormal Q of `rank`
    columns. Takes `rank` products (one batch of them) and the memory of `rank` copies
    of the parameters. Worthwhile only if A is close to a matrix of low rank plus
    `damping I`; exact at full rank, up to rounding times the condition number. For
    `damping=0` directions outside the range of A_rank are dropped.

    Args:
      rank: number of columns, >= 1; at most the number of parameters is used.
      damping: d >= 0, part of the system that is solved.
      key: of the random test matrix.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> scales = jnp.array([1.0, 4.0])
      >>> solve = solvers.nystrom(2, 0.0, jax.random.key(0))
      >>> x = solve(lambda v: scales * v, jnp.ones(2))
      >>> [round(float(value), 3) for value in x]
      [1.0, 0.25]
    """
    return Nystrom(rank, damping, key)


@dataclasses.dataclass(frozen=True, eq=False)
class Nystrom(HashableOptions):
    """The solver that `nystrom` returns; see there."""

    rank: int
    damping: float
    key: chex.PRNGKey

    def __post_init__(self) -> None:
        checks.check_count("rank", self.rank, minimum=1)
        checks.check_nonnegative("damping", self.damping)

    def __call__(self, matvec: Matvec, b: PyTree) -> PyTree:
        flat_b, flat_matvec, unravel = _flatten(matvec, b)
        columns = min(self.rank, flat_b.size)
        test = jax.random.normal(self.key, (flat_b.size, columns), flat_b.dtype)
        q, _ = jnp.linalg.qr(test)
        y = jax.vmap(flat_matvec, in_axes=1, out_axes=1)(q)
        core = q.T @ y
        basis, r = jnp.linalg.qr(y)
        inverse_core = jnp.linalg.pinv((core + core.T) / 2, hermitian=True)
        values, vectors = jnp.linalg.eigh(r @ inverse_core @ r.T)
        u = basis @ vectors
        along = u.T @ flat_b
        # Eigenvalues that are zero up to rounding count as outside the range.
        floor = tree.epsilon(b) * columns * jnp.max(jnp.abs(values))
        in_range = jnp.abs(values) > floor
        shifted = jnp.where(in_range, values + self.damping, 1)
        x = u @ jnp.where(in_range, along / shifted, 0)
        if not is_zero(self.damping):
            x = x + (flat_b - u @ jnp.where(in_range, along, 0)) / self.damping
        return unravel(x)

    def __getstate__(self) -> dict:
        key = self.key
        if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
            implementation = str(jax.random.key_impl(key))
            key = (implementation, jax.device_get(jax.random.key_data(key)))
        return {"rank": self.rank, "damping": self.damping, "key": key}

    def __setstate__(self, state: dict) -> None:
        if isinstance(state["key"], tuple):
            implementation, data = state["key"]
            state["key"] = jax.random.wrap_key_data(data, impl=implementation)
        for name, value in state.items():
            object.__setattr__(self, name, value)


def dense(damping: float = 0.0) -> "Dense":
    """Materialises `A + damping I` and solves by LU; A need not be symmetric.

    Takes one product and one row of memory per parameter: for tests and small heads.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> scales = jnp.array([1.0, 4.0])
      >>> x = solvers.dense()(lambda v: scales * v, jnp.ones(2))
      >>> [round(float(value), 3) for value in x]
      [1.0, 0.25]
    """
    return Dense(damping)


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(HashableOptions):
    """The solver that `dense` returns; see there."""

    damping: float

    def __post_init__(self) -> None:
        checks.check_nonnegative("damping", self.damping)

    def __call__(self, matvec: Matvec, b: PyTree) -> PyTree:
        flat_b, flat_matvec, unravel = _flatten(damp(matvec, self.damping), b)
        eye = jnp.eye(flat_b.size, dtype=flat_b.dtype)
        matrix = jax.vmap(flat_matvec, out_axes=1)(eye)
        return unravel(jnp.linalg.solve(matrix, flat_b))


def _flatten(
    matvec: Matvec, b: PyTree
) -> tuple[chex.Array, Callable[[chex.Array], chex.Array], Callable]:
    """Returns b and A on vectors [P] that every device holds whole, and the way back.

    Under a mesh with explicit axes the leaves keep their shardings outside.
    """
    specs = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, b)

    def ravel(x: PyTree) -> chex.Array:
        return ravel_pytree(jax.tree.map(_gather, x))[0]

    _, unravel_whole = ravel_pytree(jax.tree.map(_gather, b))

    def unravel(vector: chex.Array) -> PyTree:
        return jax.tree.map(_scatter, unravel_whole(vector), specs)

    return ravel(b), lambda v: ravel(matvec(unravel(v))), unravel


def _gather(leaf: chex.Array) -> chex.Array:
    return _scatter(leaf, PartitionSpec(*[None] * jnp.ndim(leaf)))


def _scatter(leaf: chex.Array, spec: PartitionSpec) -> chex.Array:
    """Reshards a leaf of a mesh with explicit axes; other leaves stay as they are."""
    if jax.typeof(leaf).sharding.spec == spec:
        return leaf
    return jax.sharding.reshard(leaf, spec)
