"""Eq. 5 for any linear system: right-hand side, solve, mixed term, diagnostics."""

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
    bounded_length,
    call_solver,
    collectives,
    mean_product,
    solve_from,
)
from autodo_jax.implicit.krylov import ConjugateGradient
from autodo_jax.implicit.linear import BoundedSolver, Matvec, MatvecAt
from autodo_jax.implicit.series import Neumann
from autodo_jax.implicit.sharding import parameter_axes


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


def implicit_gradient(
    build: Callable[[PyTree, PyTree], tuple[System, MatvecAt | None]],
    inner_values: Callable[[], list],
    outer_loss: Callable,
    params: PyTree,
    hparams: PyTree,
    *,
    outer_args: tuple,
    solver: Any,
    outer_has_aux: bool,
    x0: PyTree | None,
    axis_name: AxisName | None,
    param_axes: tuple | None,
) -> tuple[chex.Array, PyTree, HypergradInfo]:
    """Eq. 5 for any system: right-hand side, solve, mixed term, diagnostics."""
    checks.check_callable("outer_loss", outer_loss, "see value_and_hypergrad")
    checks.check_callable("solver", solver, "such as solvers.conjugate_gradient()")
    checks.check_arguments("outer_args", outer_args)
    checks.check_axis_name(axis_name)
    checks.check_floating("params", params)
    checks.check_floating("hparams", hparams)
    outer_loss = checks.scalar_loss(
        "outer_loss", outer_loss, outer_has_aux, "outer_has_aux"
    )
    vary, mean = collectives(axis_name)
    whole, hparams = jax.tree.map(jnp.asarray, (params, hparams))
    params, hparams = vary((whole, hparams))

    def outer(theta: PyTree, lam: PyTree) -> tuple[chex.Array, PyTree]:
        returned = outer_loss(theta, lam, *outer_args)
        return returned if outer_has_aux else (returned, None)

    value, pullback, aux = jax.vjp(outer, params, hparams, has_aux=True)
    outer_grad, direct = pullback(jnp.ones_like(value))
    axes = parameter_axes(
        whole, axis_name, param_axes, lambda: [value, *inner_values()], solver
    )
    system, matvec_at = build(params, hparams)
    _check_influence(pullback, value, system, params)

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

    with tree.sharded_over(axes):
        unit_b, b_norm = tree.normalize(b)
        if x0 is not None:
            x0 = tree.scale(1 / tree.nonzero(b_norm), x0)
        x, solver_info = solve_from(solve, matvec, unit_b, x0)
        # The others would pay a product for it where the residual is not asked for: a
        # series has looked at all its residuals but the last, and conjugate gradients
        # at the rounding of products that have no other error.
        is_precise = system.is_exact and tree.epsilon(params) == tree.epsilon(b)
        is_recurrence = isinstance(solver, BoundedSolver)
        is_recurrence &= not isinstance(solver, Neumann)
        is_recurrence &= not (isinstance(solver, ConjugateGradient) and is_precise)

        def adjoint(v: PyTree) -> tuple[PyTree, PyTree]:
            product, mixed = system.adjoint(vary(tree.cast_like(v, params)))
            return mean(tree.promote(product)), mean(mixed)

        direct, optimality = mean((direct, system.optimality))
        grads, info = _assemble(adjoint, x, unit_b, b_norm, direct, is_recurrence)
        info = info._replace(
            inner_grad_norm=tree.norm(tree.promote(optimality)),
            aux=aux,
            solver_info=solver_info,
        )
    return mean(value), grads, info


def _assemble(
    adjoint: Callable[[PyTree], tuple[PyTree, PyTree]],
    x: PyTree,
    unit_b: PyTree,
    b_norm: chex.Array,
    direct: PyTree,
    is_recurrence: bool,
) -> tuple[PyTree, HypergradInfo]:
    """Returns the hypergradient from x, `A x = unit_b`, and what its product tells."""
    # At x / |x|, because a tiny x would underflow in x'Ax, and in float16 everywhere.
    unit_x, x_norm = tree.normalize(x)
    unit_product, mixed = adjoint(unit_x)
    product = tree.scale(x_norm, unit_product)
    if is_recurrence:
        # Recurrences say that they are below |b|, but lose it to rounding in singular
        # systems.
        length = bounded_length(product, unit_b)
        product, x = tree.scale(length, product), tree.scale(length, x)
        x_norm = length * x_norm
    grads = tree.add_scaled(direct, -b_norm * x_norm, mixed)
    return grads, HypergradInfo(
        inner_grad_norm=jnp.zeros(()),
        residual_norm=tree.norm(optax.tree.sub(product, unit_b)),
        curvature=tree.vdot(unit_x, unit_product),
        rhs_norm=b_norm,
        direct_norm=tree.norm(tree.promote(direct)),
        grads_finite=tree.all_finite(grads),
        solution=tree.scale(b_norm, x),
        aux=None,
        solver_info=None,
    )


def _check_influence(
    pullback: Callable, value: chex.Array, system: System, params: PyTree
) -> None:
    if checks.depends_on_input(lambda ct: pullback(ct)[1], value):
        return
    if checks.depends_on_input(lambda v: system.adjoint(v)[1], params):
        return
    raise ValueError(
        "`hparams` has no influence: the derivative of the inner loss does not "
        "depend on it and the outer loss does not either, so the hypergradient "
        "would be zero. Pass the hyperparameters as the argument `hparams` and use "
        "them inside inner_loss, not only as the starting point of the training."
    )
