"""The adjoint system `A x = d_params L_v` of a hypergradient, and its solution."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from autodo_jax._typing import AxisName, PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.curvature import Curvature, FiniteDifference, Hessian
from autodo_jax.implicit.linear import (
    BoundedSolver,
    LinearMap,
    Matvec,
    Solver,
    StochasticSolver,
    damp,
    split_info,
)


class System(NamedTuple):
    """The linear system of one hypergradient, on one device's data."""

    optimality: PyTree  # F(params, hparams), the gradient of L_t: 0 at the solution
    matvec: Matvec  # v -> A v
    adjoint: Callable[[PyTree], tuple[PyTree, PyTree]]  # x -> (A x, (d_hparams F)' x)
    is_exact: bool = False  # to the rounding of the parameters' type


def stationary_system(
    inner_loss: Callable,
    curvature: Curvature,
    params: PyTree,
    hparams: PyTree,
    args: tuple,
) -> System:
    """Returns the system with F = d_params L_t and A the curvature."""
    if isinstance(curvature, Hessian) and curvature.mode == "reverse-over-reverse":
        system = reverse_system(
            lambda theta, lam: jax.grad(inner_loss)(theta, lam, *args), params, hparams
        )
        return _add_damping(system._replace(is_exact=True), curvature.damping)

    if isinstance(curvature, FiniteDifference):
        return _difference_system(inner_loss, curvature, params, hparams, args)

    # A directional derivative of the whole gradient contains H v and the mixed term.
    (optimality, _), directional = jax.linearize(
        lambda theta: jax.grad(inner_loss, (0, 1))(theta, hparams, *args), params
    )
    if isinstance(curvature, Hessian):
        # Under jit the mixed term, which a product does not use, is not computed. A
        # second linearization without it would repeat the forward pass unless the
        # compiler notices that both are the same.
        system = System(optimality, lambda v: directional(v)[0], directional, True)
        return _add_damping(system, curvature.damping)
    matvec = curvature(inner_loss, params, hparams, args)
    return System(optimality, matvec, lambda x: (matvec(x), directional(x)[1]))


def _difference_system(
    inner_loss: Callable,
    curvature: FiniteDifference,
    params: PyTree,
    hparams: PyTree,
    args: tuple,
) -> System:
    """Returns the system made of gradients at shifted parameters only."""

    def gradients(theta: PyTree) -> tuple[PyTree, PyTree]:
        return jax.grad(inner_loss, (0, 1))(theta, hparams, *args)

    directional = curvature.directional(gradients, params)

    def adjoint(x: PyTree) -> tuple[PyTree, PyTree]:
        product, mixed = directional(x)
        return product, tree.cast_like(mixed, hparams)

    system = System(gradients(params)[0], lambda v: directional(v)[0], adjoint)
    return _add_damping(system, curvature.damping)


def reverse_system(optimality_fn: Callable, params: PyTree, hparams: PyTree) -> System:
    """Returns the transposed system of F = optimality_fn, made of pullbacks only."""
    optimality, pullback = jax.vjp(lambda theta: optimality_fn(theta, hparams), params)
    _, pullback_both = jax.vjp(optimality_fn, params, hparams)
    return System(optimality, lambda v: pullback(v)[0], pullback_both)


def _add_damping(system: System, damping: chex.Numeric) -> System:
    def adjoint(x: PyTree) -> tuple[PyTree, PyTree]:
        product, mixed = system.adjoint(x)
        return damp(lambda _: product, damping)(x), mixed

    return system._replace(matvec=damp(system.matvec, damping), adjoint=adjoint)


def solve_from(
    solve: Callable[[PyTree, chex.Numeric], Any],
    matvec: Matvec,
    unit_b: PyTree,
    x0: PyTree | None,
) -> tuple[PyTree, PyTree]:
    """Returns `(x, solver_info)` of `A x = unit_b`, |unit_b| = 1, starting from `x0`.

    `x0` is shortened to its length of smallest residual, and dropped where none is
    better than zero. Without that, the warm starts of a training loop grow along
    directions of negative curvature until their residual is 1, and what they find is
    mostly these directions. It is not made longer: T terms more would not continue the
    sum of T terms then. `solve` gets a right-hand side of unit norm, and the number
    that stands for 1 in its scale.
    """
    rhs, rhs_norm, tol_scale = unit_b, jnp.ones(()), jnp.ones(())
    if x0 is not None:
        product = matvec(x0)
        squared, along = tree.vdot(product, product), tree.vdot(product, unit_b)
        length = jax.lax.stop_gradient(jnp.minimum(along / tree.nonzero(squared), 1))
        helps = length > 0  # False for a NaN too.
        residual = tree.add_scaled(unit_b, -length, product)
        residual, norm = tree.normalize(residual)
        rhs = tree.select(helps, residual, unit_b)
        rhs_norm = jnp.where(helps, norm, 1)
        tol_scale = 1 / tree.nonzero(rhs_norm)
        x0 = tree.select(helps, tree.scale(length, x0), tree.zeros_like(x0))
    solution, solver_info = split_info(solve(rhs, tol_scale), unit_b)
    x = tree.cast_like(solution, unit_b)
    return (x if x0 is None else tree.add_scaled(x0, rhs_norm, x)), solver_info


def call_solver(
    solver: Solver, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric
) -> Any:
    """Returns what the solver does; from an iterative one of ours its best iterate."""
    if isinstance(solver, BoundedSolver):
        return solver.bounded(matvec, b, tol_scale)
    return solver(matvec, b)


def mean_product(
    matvec: Matvec, params: PyTree, vary: Callable, mean: Callable
) -> LinearMap:
    """Returns the product on float32 vectors, averaged over the devices.

    Derivatives of the local loss first, the mean over the axis last.
    """

    def local(v: PyTree) -> PyTree:
        v = jax.tree.map(tree.vary_like, tree.cast_like(v, params), params)
        return tree.promote(matvec(v))

    def transposed(u: PyTree) -> PyTree:
        u = vary(u)
        return mean(jax.linear_transpose(local, u)(u)[0])

    return LinearMap(lambda v: mean(local(vary(v))), transposed)


def bounded_length(product: PyTree, unit_b: PyTree) -> chex.Array:
    """Returns a c for which `|c product - unit_b|` is at most 1, where |unit_b| = 1.

    1 where that is enough, else the c of the smallest residual.
    """
    squared, along = tree.vdot(product, product), tree.vdot(product, unit_b)
    is_below = squared <= 2 * along
    shortest = jnp.where(is_below, 1, along)
    return shortest / jnp.where(is_below, 1, tree.nonzero(squared))


def num_batches(inner_batches: tuple, solver: Solver) -> int:
    """Returns the number of batches: one for each product and one for the mixed term.

    Raises:
      TypeError: the solver does not take a batch per product.
      ValueError: another number of batches.
    """
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


def take_batch(inner_batches: tuple, j: chex.Numeric) -> tuple:
    """Returns the j-th batch as arguments of the inner loss."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, j, keepdims=False),
        tuple(inner_batches),
    )


def collectives(axis_name: AxisName | None) -> tuple[Callable, Callable]:
    """Returns `(vary, mean)` over the axis; without an axis both are the identity.

    Inside a `jax.shard_map` that tracks replication, the derivative with respect to a
    replicated value is summed over the devices: that is the transpose of its implicit
    broadcast. `vary` marks the value as varying, which keeps the derivative local, as
    it is under pmap and vmap; `mean` then averages it once.
    """
    if axis_name is None:
        return lambda x: x, lambda x: x
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    manual = jax.sharding.get_abstract_mesh().manual_axes

    def vary_leaf(leaf: chex.Array) -> chex.Array:
        for name in names:
            if name in manual:
                with contextlib.suppress(ValueError):  # It already varies.
                    leaf = tree.as_varying(leaf, name)
        return leaf

    return (
        lambda x: jax.tree.map(vary_leaf, x),
        lambda x: jax.lax.pmean(x, axis_name),
    )
