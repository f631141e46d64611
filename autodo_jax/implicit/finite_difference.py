"""Products with the Hessian by differences of gradients, without second derivatives."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.linear import HashableOptions, Matvec, damp


def finite_difference(
    step: chex.Numeric | str = "auto", damping: float = 0.0
) -> "FiniteDifference":
    """The Hessian by central differences of the gradient, plus `damping` times I.

    `H v = |v| (g(theta + s u) - g(theta - s u)) / 2 s` with `u = v / |v|`, as in DARTS,
    and the mixed term of `hypergrad` likewise. For losses whose derivative cannot be
    derived again (`jax.custom_vjp` around a kernel, flash attention), and where two
    gradients fit in memory and a linearized one does not. Takes two gradients a
    product. Errors are about 1e-4 in float32, 1e-8 in float64 and some percent in
    bfloat16; draws in the loss must be the same on both sides, as keys in `inner_args`
    make them.

    Args:
      step: s > 0, or `"auto"`: `eps**(1/3) (1 + |theta|)`, with the machine epsilon of
        the coarsest type among the parameters (0.005 for float32, 0.2 for bfloat16).
      damping: d >= 0.

    Raises:
      ValueError: step <= 0, an unknown string, or damping < 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import curvature
      >>> loss = lambda w, lam: jnp.sum(lam * w**2)
      >>> by_differences = curvature.finite_difference()
      >>> matvec = by_differences(loss, jnp.ones(2), jnp.array([1.0, 4.0]), ())
      >>> [round(float(value), 1) for value in matvec(jnp.ones(2))]
      [2.0, 8.0]
    """
    return FiniteDifference(step, damping)


@dataclasses.dataclass(frozen=True, eq=False)
class FiniteDifference(HashableOptions):
    """The curvature that `finite_difference` returns; see there."""

    step: chex.Numeric | str
    damping: float

    def __post_init__(self) -> None:
        if not (isinstance(self.step, str) and self.step == "auto"):
            checks.check_positive("step", self.step, hint=" or 'auto'")
        checks.check_nonnegative("damping", self.damping)

    def __call__(
        self, inner_loss: Callable, params: PyTree, hparams: PyTree, inner_args: tuple
    ) -> Matvec:
        def gradient(theta: PyTree) -> PyTree:
            return jax.grad(inner_loss)(theta, hparams, *inner_args)

        return damp(self.directional(gradient, params), self.damping)

    def directional(self, function: Callable, params: PyTree) -> Matvec:
        """Returns `v -> (d function / d params) v`, by central differences."""
        step = self._step(params)

        def shifted(unit: PyTree, length: chex.Numeric) -> PyTree:
            moved = tree.add_scaled(tree.promote(params), length, unit)
            return tree.promote(function(tree.cast_like(moved, params)))

        def product(v: PyTree) -> PyTree:
            unit, norm = tree.normalize(tree.promote(v))
            above, below = shifted(unit, step), shifted(unit, -step)
            return tree.scale(norm / (2 * step), optax.tree.sub(above, below))

        return product

    def _step(self, params: PyTree) -> chex.Numeric:
        if not isinstance(self.step, str):
            return self.step
        coarsest = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params))
        return coarsest ** (1 / 3) * (1 + tree.norm(tree.promote(params)))
