"""The truncated Neumann series (Sec. 3.2), and its first term alone."""

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, loops, tree
from autodo_jax.implicit.linear import HashableOptions, Matvec, MatvecAt, damp
from autodo_jax.implicit.spectrum import (
    AUTO_NUM_STEPS,
    auto_step_size,
    largest_eigenvalue,
)


def neumann(
    num_terms: int = 5, step_size: chex.Numeric | str = "auto", damping: float = 0.0
) -> "Neumann":
    """Truncated Neumann series `x = a * sum_{j=0..num_terms} (I - a A)^j b` (Sec. 3.2).

    Takes `num_terms` products. Converges to `A^-1 b` iff `0 < a < 2 / lambda_max(A)`,
    at the rate `max |1 - a lambda|`. Equals the hypergradient through `num_terms + 1`
    unrolled steps of gradient descent with learning rate `a`. Called by itself it is
    that sum even where it diverges; `hypergrad` and the decorators return the best
    partial sum then.

    Args:
      num_terms: T >= 0. The paper uses 5.
      step_size: a > 0, a float or a traced scalar; `"auto"` takes `auto_step_size`
        after a power iteration (`AUTO_NUM_STEPS` more products). The paper's program
        uses 0.01.
      damping: d >= 0, solves with `A + d I`.

    Raises:
      ValueError: num_terms < 0, step_size <= 0, an unknown string, or damping < 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> x = solvers.neumann(1, step_size=0.25)(lambda v: 2.0 * v, jnp.ones(2))
      >>> x.tolist()  # 0.25 * (1 + 0.5) of the solution 0.5
      [0.375, 0.375]
    """
    return Neumann(num_terms, step_size, damping)


def identity(scale: chex.Numeric = 1.0) -> "Identity":
    """Scaling `x = scale * b` without a product: DARTS's T1-T2 estimator (Sec. 3.3).

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> solvers.identity(scale=0.5)(lambda v: 2.0 * v, jnp.ones(2)).tolist()
      [0.5, 0.5]
    """
    return Identity(scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Identity(HashableOptions):
    """The solver that `identity` returns; see there."""

    scale: chex.Numeric
    num_terms: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        checks.check_positive("scale", self.scale)

    def __call__(self, matvec: Matvec, b: PyTree) -> PyTree:
        del matvec
        return tree.scale(self.scale, b)

    def stochastic(self, matvec_at: MatvecAt, b: PyTree) -> PyTree:
        """Takes no product of any batch."""
        del matvec_at
        return tree.scale(self.scale, b)


@dataclasses.dataclass(frozen=True, eq=False)
class Neumann(HashableOptions):
    """The solver that `neumann` returns; see there."""

    num_terms: int
    step_size: chex.Numeric | str
    damping: float

    def __post_init__(self) -> None:
        checks.check_count("num_terms", self.num_terms, minimum=0)
        checks.check_nonnegative("damping", self.damping)
        if not (isinstance(self.step_size, str) and self.step_size == "auto"):
            checks.check_positive("step_size", self.step_size, hint=" or 'auto'")

    def __call__(self, matvec: Matvec, b: PyTree) -> PyTree:
        matvec, step, start = self._begin(matvec, b)

        def descend(_: chex.Numeric, x: PyTree) -> PyTree:
            return _descend(x, matvec(x), step, start)

        return loops.repeat(self.num_terms, descend, start)

    def bounded(
        self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric = 1.0
    ) -> PyTree:
        """Returns the last partial sum, unless the residual has grown before it.

        Then the best earlier one, at the length of smallest residual, which is at most
        |b|. The residual of a sum is known from the product that leads to the next, so
        that of the last one is not: it can exceed |b| where a step is too long for the
        first time.
        """
        del tol_scale
        matvec, step, start = self._begin(matvec, b)
        b_squared = jax.lax.stop_gradient(tree.vdot(b, b))

        def descend(_: chex.Numeric, state: _Descent) -> _Descent:
            x, product = state.x, matvec(state.x)
            residual = optax.tree.sub(b, product)
            squared = jax.lax.stop_gradient(tree.vdot(residual, residual))
            # The residual of `length * x` is smallest, at most |b|, and the smaller the
            # more the product points along b.
            product_squared = tree.nonzero(tree.vdot(product, product))
            along = tree.vdot(product, b)
            cosine = jax.lax.stop_gradient(along**2 / product_squared)
            is_best = cosine > state.best_cosine
            length = along / product_squared
            return _Descent(
                x=_descend(x, product, step, start),
                best=tree.select(is_best, tree.scale(length, x), state.best),
                best_cosine=jnp.where(is_best, cosine, state.best_cosine),
                smallest=jnp.minimum(squared, state.smallest),
                last=squared,
            )

        zero = jnp.zeros_like(b_squared)
        first = _Descent(start, tree.zeros_like(b), zero, b_squared, zero)
        if self.num_terms == 0:
            return start
        end = loops.repeat(self.num_terms, descend, first)
        # Rounding errors of a series that has converged are not a divergence.
        rounding = (100 * tree.epsilon(b)) ** 2 * b_squared
        converges = end.last <= jnp.maximum(1.002 * end.smallest, rounding)
        return tree.select(converges, end.x, end.best)

    def stochastic(self, matvec_at: MatvecAt, b: PyTree) -> PyTree:
        """The series with product j taken by `matvec_at(j)`, j = 0..num_terms-1.

        Term j + 1 is `(I - a A_j)` times term j. With independent unbiased products the
        sum is unbiased for the truncated series, which no Krylov method is. The step
        size `"auto"` is that of `matvec_at(num_terms)`.
        """
        step = self._step(damp(matvec_at(self.num_terms), self.damping), b)

        def add_term(
            j: chex.Numeric, carry: tuple[PyTree, PyTree]
        ) -> tuple[PyTree, PyTree]:
            total, term = carry
            product = damp(matvec_at(j), self.damping)(term)
            term = tree.add_scaled(term, -step, product)
            return optax.tree.add(total, term), term

        total, _ = loops.repeat(self.num_terms, add_term, (b, b))
        return tree.scale(step, total)

    def _begin(self, matvec: Matvec, b: PyTree) -> tuple[Matvec, chex.Numeric, PyTree]:
        """Returns the damped product, the step size and the first term."""
        matvec = damp(matvec, self.damping)
        step = self._step(matvec, b)
        start = tree.scale(step, b)
        return matvec, step, start

    def _step(self, matvec: Matvec, like: PyTree) -> chex.Numeric:
        if not isinstance(self.step_size, str):
            return self.step_size
        largest = largest_eigenvalue(matvec, like, num_steps=AUTO_NUM_STEPS)
        return auto_step_size(largest)


def _descend(x: PyTree, product: PyTree, step: chex.Numeric, start: PyTree) -> PyTree:
    """Adds a term: a step of gradient descent on the quadratic, with one vector."""
    x_minus = tree.add_scaled(x, -step, product)
    return optax.tree.add(x_minus, start)


class _Descent(NamedTuple):
    """Partial sums of a series and what is known of their residuals, squared."""

    x: PyTree  # the latest, whose residual is not known yet
    best: PyTree  # the best of those before, at its best length
    best_cosine: chex.Array  # of its product and b, squared
    smallest: chex.Array  # residual of the sums themselves, b for none
    last: chex.Array  # of the sum before x
