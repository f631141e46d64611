"""Hypergradients by the implicit function theorem (Eq. 3-5).

Property that must hold: `params` is a stationary point of the inner loss, or close to
one (`info.inner_grad_norm`). Then with `L_t` the inner and `L_v` the outer loss

    dL_v/dhparams = d_hparams L_v
                    - (d_params L_v) [d2_params L_t]^-1 (d_params d_hparams L_t).

The adjoint system `A x = d_params L_v` is solved by products with A only; one more
product at x gives the mixed term and the residual together.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.curvature import Curvature, Hessian, hessian
from autodo_jax.implicit.solvers import (
    Matvec,
    Solver,
    StochasticSolver,
    neumann,
    split_info,
)

PyTree = Any
AxisName = Any

_DEFAULT_SOLVER = neumann(num_terms=20, step_size="auto")


class HypergradInfo(NamedTuple):
    """How far a hypergradient can be trusted. Scalars, but for `solution` and `aux`."""

    inner_grad_norm: chex.Array  # |d_params L_t|: 0 where the theorem holds
    residual_norm: chex.Array  # |A x - b| / |b|; 1 is as bad as x = 0
    curvature: chex.Array  # x'Ax / x'x; negative: A is indefinite
    rhs_norm: chex.Array  # |b|, b = d_params L_v
    direct_norm: chex.Array  # |d_hparams L_v|
    grads_finite: chex.Array  # bool: no NaN or infinity in the hypergradient
    solution: PyTree  # x, float32 or wider: pass as `x0` to the next solve
    aux: PyTree  # second output of outer_loss with outer_has_aux, else None
    solver_info: PyTree  # what the solver returned beside x, else None


class _System(NamedTuple):
    """The linear system of one hypergradient, on one device's data."""

    optimality: PyTree  # F(params, hparams), the gradient of L_t: 0 at the solution
    matvec: Matvec  # v -> A v
    adjoint: Callable[[PyTree], tuple[PyTree, PyTree]]  # x -> (A x, (d_hparams F)' x)


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
        so that every product sees the same draw.
      outer_loss: `(params, hparams, *outer_args) -> scalar`, L_v; may depend on
        `hparams` directly.
      params: pytree of floating arrays. bfloat16 and float16 are solved in float32 and
        cast at each product.
      hparams: pytree of floating arrays.
      inner_args: further arguments of `inner_loss`.
      outer_args: further arguments of `outer_loss`.
      solver: `(matvec, b) -> x` or `-> (x, info)`; see `solvers`. The right-hand side
        it gets has unit norm.
      curvature: what A is; None: the Hessian of `inner_loss`; see `curvature`.
      outer_has_aux: `outer_loss` returns `(scalar, aux)`.
      inner_batches: in place of `inner_args`, a tuple like it whose arrays have a
        leading axis of `num_terms + 1`: a batch for each product, the last for the
        mixed term. Needs a solver that allows it (`solvers.neumann`).
      x0: where the solve starts, such as `info.solution` of the step before; no
        derivative flows through it. One more product.
      axis_name: mapped axis (or tuple of axes) of which each device holds a shard of
        the data and a copy of `params` and `hparams`; the losses are local means, and
        value, hypergradient and diagnostics come out as those of the mean over the
        axis. `aux` stays local.

    Returns:
      `(value, grads, info)`: scalar, pytree like `hparams`, `HypergradInfo`.

    Raises:
      TypeError: a solver, loss or curvature that is not callable, leaves that are not
        floating, a solver that returns another structure than it got.
      ValueError: losses that are not scalar, an unbound axis name, batches without a
        common leading axis, a hypergradient that is zero by the structure of the
        program (neither loss depends on `hparams`).
    """
    checks.check_callable("inner_loss", inner_loss, "see the docstring")
    inner_loss = checks.scalar_loss("inner_loss", inner_loss)
    curvature = hessian() if curvature is None else curvature
    checks.check_callable("curvature", curvature, "such as curvature.hessian()")

    def build(theta, lam):
        if inner_batches is None:
            args, matvec_at = inner_args, None
        else:
            last = _num_batches(inner_batches, solver) - 1
            args = _batch(inner_batches, last)

            def matvec_at(j):
                return curvature(inner_loss, theta, lam, _batch(inner_batches, j))

        return _stationary_system(inner_loss, curvature, theta, lam, args), matvec_at

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
    **options: Any,
) -> PyTree:
    """Returns `dL_v/dhparams` at `optimality_fn(params, hparams, *inner_args) = 0`.

    `value_and_hypergrad_root` without the value and the diagnostics; see there for the
    equations and the options.
    """
    return value_and_hypergrad_root(
        optimality_fn, outer_loss, params, hparams, **options
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
    """Hypergradient at a root F = 0 that need not be a gradient: the transposed system.

    With `F = optimality_fn` and J its Jacobian in the parameters, solves
    `J' x = d_params L_v`, returns `d_hparams L_v - (d_hparams F)' x`. For fixed points
    `z = f(z)` take `F = z - f(z)`: equilibrium models, momentum maps; for losses with
    `stop_gradient` inside, F is the update direction itself.

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
      TypeError, ValueError: as `value_and_hypergrad`; a TypeError where F has another
        structure than `params`.
    """
    checks.check_callable("optimality_fn", optimality_fn, "see the docstring")

    def build(theta, lam):
        def optimality(theta, lam):
            value = optimality_fn(theta, lam, *inner_args)
            checks.check_like("What `optimality_fn` returns", value, "`params`", theta)
            return value

        return _reverse_system(optimality, theta, lam), None

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


def _stationary_system(inner_loss, curvature, params, hparams, args) -> _System:
    """F = d_params L_t, A the curvature."""

    def gradient(theta, lam):
        return jax.grad(inner_loss)(theta, lam, *args)

    is_hessian = isinstance(curvature, Hessian)
    if is_hessian and curvature.mode == "reverse-over-reverse":
        system = _reverse_system(gradient, params, hparams)
        return _add_damping(system, curvature.damping)

    # One directional derivative of the whole gradient holds H v and the mixed term.
    (optimality, _), directional = jax.linearize(
        lambda theta: jax.grad(inner_loss, (0, 1))(theta, hparams, *args), params
    )
    if is_hessian:
        _, product = jax.linearize(lambda theta: gradient(theta, hparams), params)
        system = _System(optimality, product, directional)
        return _add_damping(system, curvature.damping)
    matvec = curvature(inner_loss, params, hparams, args)
    return _System(optimality, matvec, lambda x: (matvec(x), directional(x)[1]))


def _reverse_system(optimality_fn, params, hparams) -> _System:
    optimality, pullback = jax.vjp(lambda theta: optimality_fn(theta, hparams), params)
    _, pullback_both = jax.vjp(optimality_fn, params, hparams)
    return _System(optimality, lambda v: pullback(v)[0], pullback_both)


def _add_damping(system: _System, damping: float) -> _System:
    if not damping:
        return system

    def adjoint(x):
        product, mixed = system.adjoint(x)
        return tree.add_scaled(product, damping, x), mixed

    return system._replace(
        matvec=lambda v: tree.add_scaled(system.matvec(v), damping, v), adjoint=adjoint
    )


def _implicit_gradient(
    build: Callable[[PyTree, PyTree], tuple[_System, Callable | None]],
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
    checks.check_axis_name(axis_name)
    checks.check_floating("params", params)
    checks.check_floating("hparams", hparams)
    outer_loss = checks.scalar_loss("outer_loss", outer_loss, outer_has_aux)
    vary, mean = _collectives(axis_name)
    params, hparams = vary(jax.tree.map(jnp.asarray, (params, hparams)))

    def outer(theta, lam):
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
        # Derivatives of the local loss first, the mean over the axis last.
        return lambda v: mean(tree.promote(matvec(vary(tree.cast_like(v, params)))))

    b = mean(tree.promote(outer_grad))
    if x0 is not None:
        checks.check_like("`x0`", x0, "`params`", params)
        x0 = jax.lax.stop_gradient(tree.cast_like(x0, b))
    matvec = on_vectors(system.matvec)

    def solve(rhs):
        if matvec_at is None:
            return solver(matvec, rhs)
        return solver.stochastic(lambda j: on_vectors(matvec_at(j)), rhs)

    x, solver_info = _solve(solve, matvec, b, x0)
    product, mixed = system.adjoint(vary(tree.cast_like(x, params)))
    product = mean(tree.promote(product))
    value, direct, mixed, optimality = mean((value, direct, mixed, system.optimality))
    grads = optax.tree.sub(direct, mixed)
    b_norm, x_norm = tree.norm(b), tree.norm(x)
    info = HypergradInfo(
        inner_grad_norm=tree.norm(tree.promote(optimality)),
        residual_norm=tree.norm(optax.tree.sub(product, b)) / _nonzero(b_norm),
        curvature=optax.tree.vdot(x, product) / _nonzero(x_norm) ** 2,
        rhs_norm=b_norm,
        direct_norm=tree.norm(tree.promote(direct)),
        grads_finite=tree.all_finite(grads),
        solution=x,
        aux=aux,
        solver_info=solver_info,
    )
    return value, grads, info


def _solve(solve: Callable, matvec: Matvec, b: PyTree, x0: PyTree | None):
    """Solves `A x = b` from `x0` with a right-hand side of unit norm."""
    rhs = b if x0 is None else optax.tree.sub(b, matvec(x0))
    unit, rhs_norm = tree.normalize(rhs)
    solution, solver_info = split_info(solve(unit), b)
    x = tree.scale(rhs_norm, tree.cast_like(solution, b))
    return (x if x0 is None else optax.tree.add(x0, x)), solver_info


def _num_batches(inner_batches: tuple, solver: Solver) -> int:
    if not isinstance(solver, StochasticSolver):
        raise TypeError(
            "`inner_batches` needs a solver that takes a batch per product, got "
            f"{solver!r}; use solvers.neumann, or one batch in inner_args: Krylov "
            "methods are wrong with a new matrix at each product."
        )
    count = checks.leading_axis("inner_batches", inner_batches)
    expected = solver.num_terms + 1
    if count != expected:
        raise ValueError(
            f"`inner_batches` must hold {expected} batches (one for each of the "
            f"{solver.num_terms} products, the last for the mixed term), got {count}."
        )
    return count


def _batch(inner_batches: tuple, j: chex.Numeric) -> tuple:
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, j, keepdims=False),
        tuple(inner_batches),
    )


def _collectives(axis_name: AxisName | None) -> tuple[Callable, Callable]:
    """Returns `(vary, mean)` over the axis; both the identity without one.

    Inside a `jax.shard_map` that tracks replication, a derivative in a replicated value
    is summed over the devices by the transpose of its implicit broadcast; marked as
    varying, it stays local, as it is under pmap and vmap, and the mean is taken once.
    """
    if axis_name is None:
        return lambda x: x, lambda x: x
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    manual = jax.sharding.get_abstract_mesh().manual_axes

    def vary_leaf(leaf):
        for name in names:
            if name in manual:
                with contextlib.suppress(ValueError):  # It varies already.
                    leaf = jax.lax.pcast(leaf, name, to="varying")
        return leaf

    return (
        lambda x: jax.tree.map(vary_leaf, x),
        lambda x: jax.lax.pmean(x, axis_name),
    )


def _nonzero(x: chex.Array) -> chex.Array:
    return jnp.where(x == 0, 1, x)
