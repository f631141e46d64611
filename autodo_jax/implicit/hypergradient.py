"""Hypergradients by the implicit function theorem (Eq. 3-5).

Property that must hold: `params` is a stationary point of the inner loss, or close to
one (`info.inner_grad_norm`). Then with `L_t` the inner and `L_v` the outer loss

    dL_v/dhparams = d_hparams L_v
                    - (d_params L_v) [d2_params L_t]^-1 (d_params d_hparams L_t).

The adjoint system `A x = d_params L_v` is solved with products by A only. One more
product, at x, gives both the mixed term and the residual.
"""

from collections.abc import Callable

import chex
import jax

from autodo_jax._typing import AxisName, PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.adjoint import (
    System,
    num_batches,
    reverse_system,
    stationary_system,
    take_batch,
)
from autodo_jax.implicit.curvature import Curvature, hessian
from autodo_jax.implicit.gradient import HypergradInfo, implicit_gradient
from autodo_jax.implicit.linear import Matvec, MatvecAt, Solver
from autodo_jax.implicit.series import neumann

_DEFAULT_SOLVER = neumann(num_terms=20, step_size="auto")


def hypergrad(
    inner_loss: Callable,
    outer_loss: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    inner_args: tuple = (),
    outer_args: tuple = (),
    solver: Solver = _DEFAULT_SOLVER,
    curvature: Curvature | None = None,
    inner_has_aux: bool = False,
    outer_has_aux: bool = False,
    inner_batches: tuple | None = None,
    x0: PyTree | None = None,
    axis_name: AxisName | None = None,
    param_axes: tuple | None = None,
) -> PyTree:
    """Returns `dL_v/dhparams` at `d_params L_t = 0`, a pytree like `hparams` (Eq. 5).

    `value_and_hypergrad` without the value and the diagnostics; see there for the
    arguments and the errors.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import hypergrad, solvers
      >>> inner = lambda w, lam: 0.5 * jnp.sum((w - lam) ** 2)  # minimum at w = lam
      >>> outer = lambda w, lam: 0.5 * jnp.sum(w**2)
      >>> lam = jnp.array([3.0, -1.0])
      >>> grads = hypergrad(inner, outer, lam, lam, solver=solvers.dense())
      >>> [round(float(grad), 3) for grad in grads]
      [3.0, -1.0]
    """
    return value_and_hypergrad(
        inner_loss,
        outer_loss,
        params,
        hparams,
        inner_args=inner_args,
        outer_args=outer_args,
        solver=solver,
        curvature=curvature,
        inner_has_aux=inner_has_aux,
        outer_has_aux=outer_has_aux,
        inner_batches=inner_batches,
        x0=x0,
        axis_name=axis_name,
        param_axes=param_axes,
    )[1]


def value_and_hypergrad(
    inner_loss: Callable,
    outer_loss: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    inner_args: tuple = (),
    outer_args: tuple = (),
    solver: Solver = _DEFAULT_SOLVER,
    curvature: Curvature | None = None,
    inner_has_aux: bool = False,
    outer_has_aux: bool = False,
    inner_batches: tuple | None = None,
    x0: PyTree | None = None,
    axis_name: AxisName | None = None,
    param_axes: tuple | None = None,
) -> tuple[chex.Array, PyTree, HypergradInfo]:
    """Returns `L_v`, `dL_v/dhparams` at `d_params L_t = 0`, and diagnostics (Eq. 5).

    Pure; works under jit, vmap, pmap, shard_map and inside scan.

    Args:
      inner_loss: `(params, hparams, *inner_args) -> scalar`, the L_t that `params`
        minimize, weight decay included. Data, keys and batch statistics are arguments,
        so that every product uses the same random draw.
      outer_loss: `(params, hparams, *outer_args) -> scalar`, L_v; may depend on
        `hparams` directly.
      params: pytree of floating arrays. bfloat16 and float16 are solved in float32 and
        cast at each product.
      hparams: pytree of floating arrays.
      inner_args: further arguments of `inner_loss`.
      outer_args: further arguments of `outer_loss`.
      solver: `(matvec, b) -> x` or `-> (x, info)`; see `solvers`. The right-hand side
        it gets has unit norm.
      curvature: the matrix A; None: the Hessian of `inner_loss`; see `curvature`.
      inner_has_aux: `inner_loss` returns `(scalar, aux)`; its aux is dropped.
      outer_has_aux: `outer_loss` returns `(scalar, aux)`.
      inner_batches: in place of `inner_args`, a tuple like it whose arrays have a
        leading axis of `num_terms + 1`: a batch for each product, the last for the
        mixed term. Needs a solver that allows it (`solvers.neumann`).
      x0: starting point of the solve, such as `info.solution` of the previous step,
        at its length of smallest residual if that is shorter; no derivative flows
        through it. Takes one more product.
      axis_name: mapped axis (or tuple of axes). Each device on it holds a shard of the
        data and a copy of `params` and `hparams`, and the losses are local means.
        Value, hypergradient and diagnostics are those of the mean over the axis;
        `aux` stays local.
      param_axes: axes of `jax.shard_map` over which parameters are sharded; None: those
        over which they vary, as `check_vma=True` tracks it. Inner products are summed
        over them. `()`: each device solves a problem of its own.

    Returns:
      `(value, grads, info)`: scalar, pytree like `hparams`, `HypergradInfo`.

    Raises:
      TypeError: a solver, loss or curvature that is not callable, leaves that are not
        floating, a solver whose result does not have the structure of its input.
      ValueError: losses that are not scalar, an unbound axis name, batches without a
        common leading axis, a hypergradient that is zero by the structure of the
        program (neither loss depends on `hparams`).

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers, value_and_hypergrad
      >>> inner = lambda w, lam: 0.5 * jnp.sum((w - lam) ** 2)  # minimum at w = lam
      >>> outer = lambda w, lam: 0.5 * jnp.sum(w**2)
      >>> lam = jnp.array([3.0, -1.0])
      >>> value, grads, info = value_and_hypergrad(
      ...     inner, outer, lam, lam, solver=solvers.dense()
      ... )
      >>> [round(float(grad), 3) for grad in grads]
      [3.0, -1.0]
      >>> float(value), float(info.inner_grad_norm)
      (5.0, 0.0)
    """
    checks.check_callable("inner_loss", inner_loss, "see the docstring")
    inner_loss = _inner_value(inner_loss, inner_has_aux)
    curvature = hessian() if curvature is None else curvature
    checks.check_callable("curvature", curvature, "such as curvature.hessian()")
    checks.check_arguments("inner_args", inner_args)
    if inner_batches is not None:
        checks.check_arguments("inner_batches", inner_batches)

    def build(theta: PyTree, lam: PyTree) -> tuple[System, MatvecAt | None]:
        matvec_at: MatvecAt | None
        if inner_batches is None:
            args, matvec_at = inner_args, None
        else:
            last = num_batches(inner_batches, solver) - 1
            args = take_batch(inner_batches, last)

            def matvec_at(j: chex.Numeric) -> Matvec:
                return curvature(inner_loss, theta, lam, take_batch(inner_batches, j))

        return stationary_system(inner_loss, curvature, theta, lam, args), matvec_at

    def inner_value() -> list:
        args = inner_args if inner_batches is None else take_batch(inner_batches, 0)
        return [inner_loss(params, hparams, *args)]

    return implicit_gradient(
        build,
        inner_value,
        outer_loss,
        params,
        hparams,
        outer_args=outer_args,
        solver=solver,
        outer_has_aux=outer_has_aux,
        x0=x0,
        axis_name=axis_name,
        param_axes=param_axes,
    )


def hypergrad_root(
    optimality_fn: Callable,
    outer_loss: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    inner_args: tuple = (),
    outer_args: tuple = (),
    solver: Solver = jax.scipy.sparse.linalg.gmres,
    outer_has_aux: bool = False,
    x0: PyTree | None = None,
    axis_name: AxisName | None = None,
    param_axes: tuple | None = None,
) -> PyTree:
    """Returns `dL_v/dhparams` at `optimality_fn(params, hparams, *inner_args) = 0`.

    `value_and_hypergrad_root` without the value and the diagnostics; see there for the
    equations, the arguments and the errors.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import hypergrad_root, solvers
      >>> optimality = lambda z, square: z**2 - square  # z is the square root
      >>> outer = lambda z, square: z
      >>> z, square = jnp.array(3.0), jnp.array(9.0)
      >>> grad = hypergrad_root(optimality, outer, z, square, solver=solvers.dense())
      >>> round(float(grad), 4)  # 1 / (2 * 3)
      0.1667
    """
    return value_and_hypergrad_root(
        optimality_fn,
        outer_loss,
        params,
        hparams,
        inner_args=inner_args,
        outer_args=outer_args,
        solver=solver,
        outer_has_aux=outer_has_aux,
        x0=x0,
        axis_name=axis_name,
        param_axes=param_axes,
    )[1]


def value_and_hypergrad_root(
    optimality_fn: Callable,
    outer_loss: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    inner_args: tuple = (),
    outer_args: tuple = (),
    solver: Solver = jax.scipy.sparse.linalg.gmres,
    outer_has_aux: bool = False,
    x0: PyTree | None = None,
    axis_name: AxisName | None = None,
    param_axes: tuple | None = None,
) -> tuple[chex.Array, PyTree, HypergradInfo]:
    """Returns `L_v`, the hypergradient at a root F = 0, and diagnostics.

    F need not be a gradient. With `F = optimality_fn` and J its Jacobian in the
    parameters, solves the transposed system `J' x = d_params L_v` and returns
    `d_hparams L_v - (d_hparams F)' x`. For fixed points `z = f(z)`, as of equilibrium
    models and momentum maps, take `F = z - f(z)`; for losses with `stop_gradient`
    inside, take the update direction itself.

    Args:
      optimality_fn: `(params, hparams, *inner_args) ->` a pytree like `params`.
      solver: for a general A: `jax.scipy.sparse.linalg.gmres` or `bicgstab`,
        `solvers.dense()`, or for a contraction `solvers.neumann(T, step_size=1.)`.
        Conjugate gradients and `"auto"` steps need a symmetric A.

    The other arguments are those of `value_and_hypergrad`.

    Returns:
      `(value, grads, info)` as `value_and_hypergrad`; `info.inner_grad_norm` is |F|.

    Raises:
      TypeError, ValueError: as `value_and_hypergrad`; also a TypeError if F does not
        have the structure of `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers, value_and_hypergrad_root
      >>> optimality = lambda z, square: z**2 - square  # z is the square root
      >>> value, grad, info = value_and_hypergrad_root(
      ...     optimality,
      ...     lambda z, square: z,
      ...     jnp.array(3.0),
      ...     jnp.array(9.0),
      ...     solver=solvers.dense(),
      ... )
      >>> float(value), round(float(grad), 4), float(info.inner_grad_norm)
      (3.0, 0.1667, 0.0)
    """
    checks.check_callable("optimality_fn", optimality_fn, "see the docstring")
    checks.check_arguments("inner_args", inner_args)

    def build(theta: PyTree, lam: PyTree) -> tuple[System, MatvecAt | None]:
        def optimality(theta: PyTree, lam: PyTree) -> PyTree:
            value = optimality_fn(theta, lam, *inner_args)
            checks.check_like("The value of `optimality_fn`", value, "`params`", theta)
            return tree.cast_like(value, theta)

        return reverse_system(optimality, theta, lam), None

    return implicit_gradient(
        build,
        lambda: [],
        outer_loss,
        params,
        hparams,
        outer_args=outer_args,
        solver=solver,
        outer_has_aux=outer_has_aux,
        x0=x0,
        axis_name=axis_name,
        param_axes=param_axes,
    )


def _inner_value(inner_loss: Callable, has_aux: bool) -> Callable:
    checked = checks.scalar_loss("inner_loss", inner_loss, has_aux, "inner_has_aux")
    return (lambda *args: checked(*args)[0]) if has_aux else checked
