"""Hypergradients of many outer losses at one point, such as influence functions.

With the losses `L_1 .. L_M` the rows of the Jacobian

    dL_m/dhparams = d_hparams L_m
                    - (d_params L_m) [d2_params L_t]^-1 (d_params d_hparams L_t).

All rows share the gradient of the inner loss, linearized once, and the step size of a
series; each product is taken with M vectors at a time.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks
from autodo_jax.implicit.gradient import HypergradInfo
from autodo_jax.implicit.hypergradient import value_and_hypergrad


def hypergrads(
    inner_loss: Callable,
    outer_losses: Callable,
    params: PyTree,
    hparams: PyTree,
    **options: Any,
) -> PyTree:
    """Returns `dL_m/dhparams` [M, ...] of M outer losses, a pytree like `hparams`.

    `value_and_hypergrads` without the values and the diagnostics; see there for the
    arguments and the errors.

    Examples:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from autodo_jax import hypergrads, solvers
      >>> inner = lambda w, lam: 0.5 * jnp.sum((w - lam) ** 2)  # minimum at w = lam
      >>> outer = lambda w, lam: w**2  # a loss for each element
      >>> lam = jnp.array([3.0, -1.0])
      >>> rows = hypergrads(inner, outer, lam, lam, solver=solvers.dense())
      >>> np.round(np.asarray(rows), 3).tolist()
      [[6.0, 0.0], [0.0, -2.0]]
    """
    return value_and_hypergrads(inner_loss, outer_losses, params, hparams, **options)[1]


def value_and_hypergrads(
    inner_loss: Callable,
    outer_losses: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    outer_args: tuple = (),
    x0: PyTree | None = None,
    **options: Any,
) -> tuple[chex.Array, PyTree, HypergradInfo]:
    """Returns `L_m`, `dL_m/dhparams` at `d_params L_t = 0`, and diagnostics, m = 1..M.

    Row m is what `value_and_hypergrad` returns for `L_m` alone. Takes the memory of M
    copies of the parameters and of what a solver keeps of them: split a large M. Call
    it under `jit`.

    Args:
      inner_loss: as for `value_and_hypergrad`.
      outer_losses: `(params, hparams, *outer_args) -> [M]`, such as the loss of each
        validation point.
      params, hparams: as for `value_and_hypergrad`.
      outer_args: further arguments of `outer_losses`.
      x0: `info.solution` of an earlier call: like `params`, with a leading axis M.
      **options: inner_args, solver, curvature, inner_has_aux, inner_batches, axis_name
        and param_axes of `value_and_hypergrad`.

    Returns:
      `(values, grads, info)`: values [M], a pytree like `hparams` with a leading axis
      M, and a `HypergradInfo` all of whose leaves have it.

    Raises:
      TypeError, ValueError: as `value_and_hypergrad`; also a ValueError for
        `outer_losses` that are not a vector.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers, value_and_hypergrads
      >>> inner = lambda w, lam: 0.5 * jnp.sum((w - lam) ** 2)  # minimum at w = lam
      >>> lam = jnp.array([3.0, -1.0])
      >>> values, grads, _ = value_and_hypergrads(
      ...     inner, lambda w, lam: w**2, lam, lam, solver=solvers.dense()
      ... )
      >>> values.tolist(), grads.shape
      ([9.0, 1.0], (2, 2))
    """
    checks.check_callable("outer_losses", outer_losses, "returning [M]")
    checks.check_arguments("outer_args", outer_args)
    if "outer_has_aux" in options:
        raise TypeError("`outer_has_aux` is not an option of hypergrads.")

    def values_of(theta: PyTree, lam: PyTree, *args: Any) -> chex.Array:
        values = outer_losses(theta, lam, *args)
        if jnp.ndim(values) != 1:
            raise ValueError(
                "`outer_losses` must return an array of shape [M], got "
                f"{jnp.shape(values)}."
            )
        return values

    def one(m: chex.Array, x0: PyTree | None) -> tuple:
        def outer_loss(theta: PyTree, lam: PyTree, *args: Any) -> chex.Array:
            return values_of(theta, lam, *args)[m]

        return value_and_hypergrad(
            inner_loss,
            outer_loss,
            params,
            hparams,
            outer_args=outer_args,
            x0=x0,
            **options,
        )

    values = jax.eval_shape(values_of, params, hparams, *outer_args)
    return jax.vmap(one)(jnp.arange(values.shape[0]), x0)
