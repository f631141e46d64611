"""Hypergradients by the implicit function theorem (Eq. 3-5).

Property that must hold: `params` is a stationary point of the inner loss, or close to
one (`info.inner_grad_norm`). Then with `L_t` the inner and `L_v` the outer loss

    dL_v/dhparams = d_hparams L_v
                    - (d_params L_v) [d2_params L_t]^-1 (d_params d_hparams L_t).

The adjoint system `A x = d_params L_v` is solved with products by A only. One more
product, at x, gives both the mixed term and the residual.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import AxisName, PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.adjoint import (
    System,
    best_length,
    call_solver,
    collectives,
    mean_product,
    nonzero,
    num_batches,
    reverse_system,
    solve_from,
    stationary_system,
    take_batch,
)
from autodo_jax.implicit.curvature import Curvature, hessian
from autodo_jax.implicit.linear import BoundedSolver, Matvec, MatvecAt, Solver
from autodo_jax.implicit.series import neumann

_DEFAULT_SOLVER = neumann(num_terms=20, step_size="auto")


class HypergradInfo(NamedTuple):
    """Diagnostics of a hypergradient: scalars, except for the last three."""

    inner_grad_norm: chex.Array  # |d_params L_t|: 0 where the theorem holds
    residual_norm: chex.Array  # |A x - b| / |b|; 1 is as bad as x = 0
    curvature: chex.Array  # x'Ax / x'x; negative: A is indefinite
    rhs_norm: chex.Array  # |b|, b = d_params L_v
    direct_norm: chex.Array  # |d_hparams L_v|
    grads_finite: chex.Array  # bool: no NaN or infinity in the hypergradient
    solution: PyTree  # x, float32 or wider: pass as `x0` to the next solve
    aux: PyTree  # second output of outer_loss with outer_has_aux, else None
    solver_info: PyTree  # second output of the solver, else None


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
    outer_has_aux: bool = False,
    inner_batches: tuple | None = None,
    x0: PyTree | None = None,
    axis_name: AxisName | None = None,
) -> PyTree:
    """Returns `dL_v/dhparams` at `d_params L_t = 0`, a pytree like `hparams` (Eq. 5).

    `value_and_hypergrad` without the value and the diagnostics; see there for the
    arguments and the errors.
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
        outer_has_aux=outer_has_aux,
        inner_batches=inner_batches,
        x0=x0,
        axis_name=axis_name,
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
    outer_has_aux: bool = False,
    inner_batches: tuple | None = None,
    x0: PyTree | None = None,
    axis_name: AxisName | None = None,
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
      outer_has_aux: `outer_loss` returns `(scalar, aux)`.
      inner_batches: in place of `inner_args`, a tuple like it whose arrays have a
        leading axis of `num_terms + 1`: a batch for each product, the last for the
        mixed term. Needs a solver that allows it (`solvers.neumann`).
      x0: starting point of the solve, such as `info.solution` of the previous step; no
        derivative flows through it. Takes one more product.
      axis_name: mapped axis (or tuple of axes). Each device on it holds a shard of the
        data and a copy of `params` and `hparams`, and the losses are local means.
        Value, hypergradient and diagnostics are those of the mean over the axis;
        `aux` stays local.

    Returns:
      `(value, grads, info)`: scalar, pytree like `hparams`, `HypergradInfo`.

    Raises:
      TypeError: a solver, loss or curvature that is not callable, leaves that are not
        floating, a solver whose result does not have the structure of its input.
      ValueError: losses that are not scalar, an unbound axis name, batches without a
        common leading axis, a hypergradient that is zero by the structure of the
        program (neither loss depends on `hparams`).
    """
    checks.check_callable("inner_loss", inner_loss, "see the docstring")
    inner_loss = checks.scalar_loss("inner_loss", inner_loss)
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

    return _implicit_gradient(
        build,
        outer_loss,
        params,
        hparams,
        outer_args=outer_args,
        solver=solver,
        outer_has_aux=outer_has_aux,
        x0=x0,
        axis_name=axis_name,
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
) -> PyTree:
    """Returns `dL_v/dhparams` at `optimality_fn(params, hparams, *inner_args) = 0`.

    `value_and_hypergrad_root` without the value and the diagnostics; see there for the
    equations, the arguments and the errors.
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
      outer_loss, params, hparams, inner_args, outer_args, outer_has_aux, x0, axis_name:
        as for `value_and_hypergrad`.

    Returns:
      `(value, grads, info)` as `value_and_hypergrad`; `info.inner_grad_norm` is |F|.

    Raises:
      TypeError, ValueError: as `value_and_hypergrad`; also a TypeError if F does not
        have the structure of `params`.
    """
    checks.check_callable("optimality_fn", optimality_fn, "see the docstring")
    checks.check_arguments("inner_args", inner_args)

    def build(theta: PyTree, lam: PyTree) -> tuple[System, MatvecAt | None]:
        def optimality(theta: PyTree, lam: PyTree) -> PyTree:
            value = optimality_fn(theta, lam, *inner_args)
            checks.check_like("The value of `optimality_fn`", value, "`params`", theta)
            return tree.cast_like(value, theta)

        return reverse_system(optimality, theta, lam), None

    return _implicit_gradient(
        build,
        outer_loss,
        params,
        hparams,
        outer_args=outer_args,
        solver=solver,
        outer_has_aux=outer_has_aux,
        x0=x0,
        axis_name=axis_name,
    )


def _implicit_gradient(
    build: Callable[[PyTree, PyTree], tuple[System, MatvecAt | None]],
    outer_loss: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    outer_args: tuple,
    solver: Any,
    outer_has_aux: bool,
    x0: PyTree | None,
    axis_name: AxisName | None,
) -> tuple[chex.Array, PyTree, HypergradInfo]:
    """Eq. 5 for any system: right-hand side, solve, mixed term, diagnostics."""
    checks.check_callable("outer_loss", outer_loss, "see value_and_hypergrad")
    checks.check_callable("solver", solver, "such as solvers.conjugate_gradient()")
    checks.check_arguments("outer_args", outer_args)
    checks.check_axis_name(axis_name)
    checks.check_floating("params", params)
    checks.check_floating("hparams", hparams)
    outer_loss = checks.scalar_loss("outer_loss", outer_loss, outer_has_aux)
    vary, mean = collectives(axis_name)
    params, hparams = vary(jax.tree.map(jnp.asarray, (params, hparams)))

    def outer(theta: PyTree, lam: PyTree) -> tuple[chex.Array, PyTree]:
        returned = outer_loss(theta, lam, *outer_args)
        return returned if outer_has_aux else (returned, None)

    value, pullback, aux = jax.vjp(outer, params, hparams, has_aux=True)
    outer_grad, direct = pullback(jnp.ones_like(value))
    system, matvec_at = build(params, hparams)
    if not (
        checks.depends_on_input(lambda ct: pullback(ct)[1], value)
        or checks.depends_on_input(lambda v: system.adjoint(v)[1], params)
    ):
        raise ValueError(
            "`hparams` has no influence: the derivative of the inner loss does not "
            "depend on it and the outer loss does not either, so the hypergradient "
            "would be zero. Pass the hyperparameters as the argument `hparams` and use "
            "them inside inner_loss, not only as the starting point of the training."
        )

    def on_vectors(matvec: Matvec) -> Matvec:
        return mean_product(matvec, params, vary, mean)

    b = mean(tree.promote(outer_grad))
    if x0 is not None:
        checks.check_like("`x0`", x0, "`params`", params)
        x0 = jax.lax.stop_gradient(tree.cast_like(x0, b))
    matvec = on_vectors(system.matvec)

    def solve(rhs: PyTree, tol_scale: chex.Numeric) -> Any:
        if matvec_at is None:
            return call_solver(solver, matvec, rhs, tol_scale)
        return solver.stochastic(lambda j: on_vectors(matvec_at(j)), rhs)

    x, solver_info = solve_from(solve, matvec, b, x0)
    # At x / |x|, because a tiny x would underflow in x'Ax, and in float16 everywhere.
    unit_x, x_norm = tree.normalize(x)
    unit_product, mixed = system.adjoint(vary(tree.cast_like(unit_x, params)))
    unit_product = mean(tree.promote(unit_product))
    if matvec_at is None and isinstance(solver, BoundedSolver):
        x_norm = best_length(unit_product, b, x_norm)
        x = tree.scale(x_norm, unit_x)
    value, direct, mixed, optimality = mean((value, direct, mixed, system.optimality))
    grads = optax.tree.sub(direct, tree.scale(x_norm, mixed))
    product, b_norm = tree.scale(x_norm, unit_product), tree.norm(b)
    info = HypergradInfo(
        inner_grad_norm=tree.norm(tree.promote(optimality)),
        residual_norm=tree.norm(optax.tree.sub(product, b)) / nonzero(b_norm),
        curvature=tree.vdot(unit_x, unit_product),
        rhs_norm=b_norm,
        direct_norm=tree.norm(tree.promote(direct)),
        grads_finite=tree.all_finite(grads),
        solution=x,
        aux=aux,
        solver_info=solver_info,
    )
    return value, grads, info
