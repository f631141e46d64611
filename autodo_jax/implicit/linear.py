"""What linear solvers share: their types, damping, and the split of their results."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import chex
import jax
import numpy as np

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, tree

Matvec = Callable[[PyTree], PyTree]
MatvecAt = Callable[[chex.Numeric], Matvec]  # j -> product j
Solver = Callable[[Matvec, PyTree], Any]


@runtime_checkable
class StochasticSolver(Protocol):
    """A solver that stays correct if each of its iterations has another matrix."""

    num_terms: int

    def stochastic(self, matvec_at: MatvecAt, b: PyTree) -> Any:
        """Solves with product j taken by `matvec_at(j)`, j = 0..num_terms-1."""


@runtime_checkable
class BoundedSolver(Protocol):
    """An iterative solver that can return the best of its iterates."""

    def bounded(self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric) -> Any:
        """Solves `A x = b`, |b| = 1, with the iterate of smallest residual.

        A tolerance counts relative to `tol_scale` in place of |b|.
        """


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """A product with A that also knows the one with its transpose."""

    product: Matvec
    transposed: Matvec

    def __call__(self, v: PyTree) -> PyTree:
        return self.product(v)


def transpose(matvec: Matvec, like: PyTree) -> Matvec:
    """Returns the product with A', by linear transposition where it is not given."""
    if isinstance(matvec, LinearMap):
        return matvec.transposed
    transposed = jax.linear_transpose(matvec, like)
    return lambda v: transposed(v)[0]


class HashableOptions:
    """Equality and hash of frozen dataclasses whose fields may be arrays or keys."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def _values(self) -> tuple:
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        return tuple(_comparable(getattr(self, field.name)) for field in fields)


def _comparable(value: Any) -> Any:
    if isinstance(value, jax.core.Tracer):
        return id(value)
    if isinstance(value, (jax.Array, np.ndarray)):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            implementation = str(jax.random.key_impl(value))
            return implementation, *_comparable(jax.random.key_data(value))
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    return value


def split_info(returned: Any, b: PyTree) -> tuple[PyTree, Any]:
    """Splits a solver's result, x or (x, info), into (x, info); info may be None.

    Args:
      returned: by the solver.
      b: its right-hand side, which x is like.

    Raises:
      TypeError: x does not have the structure and shapes of `b`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> x, info = solvers.split_info(jnp.ones(2), jnp.zeros(2))
      >>> x.tolist(), info
      ([1.0, 1.0], None)
    """
    structure: Any = jax.tree.structure(returned)
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    x, info = returned, None
    if is_pair and structure != jax.tree.structure(b):
        x, info = returned
    checks.check_like("The result of `solver`", x, "its right-hand side", b)
    return x, info


def damp(matvec: Matvec, damping: chex.Numeric) -> Matvec:
    """Returns the product with `A + damping I`.

    Args:
      matvec: `v -> A v`.
      damping: d, a number.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> solvers.damp(lambda v: 2.0 * v, 0.5)(jnp.ones(2)).tolist()
      [2.5, 2.5]
    """
    if is_zero(damping):
        return matvec

    def damped(product: Matvec) -> Matvec:
        return lambda v: tree.add_scaled(product(v), damping, v)

    if isinstance(matvec, LinearMap):
        return LinearMap(damped(matvec.product), damped(matvec.transposed))
    return damped(matvec)


def is_zero(damping: Any) -> bool:
    """Returns True for the Python number zero, False for anything traced."""
    return isinstance(damping, (int, float)) and damping == 0
