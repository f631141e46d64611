"""The rule of derivatives that the decorators attach to the result of a solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax._typing import AxisName, PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.adjoint import (
    call_solver,
    collectives,
    mean_product,
    solve_from,
)
from autodo_jax.implicit.curvature import Curvature
from autodo_jax.implicit.linear import LinearMap, Matvec, Solver


class Problem(NamedTuple):
    """What the parameters solve, and how its linearization is solved."""

    function: Callable  # (params, hparams, *args, **kwargs) -> scalar, or F like params
    curvature: Curvature | None  # of a scalar loss; None: `function` is F itself
    solver: Solver
    axis_name: AxisName | None


class _Arguments(NamedTuple):
    """Arguments of `Problem.function` beside the params, without the arrays."""

    structure: Any
    static: list  # leaves; _ARRAY where there is an array

    def merge(self, arrays: list) -> tuple[PyTree, tuple, dict]:
        """Returns `(hparams, args, kwargs)`."""
        rest = iter(arrays)
        leaves = [next(rest) if s is _ARRAY else s for s in self.static]
        return self.structure.unflatten(leaves)

    def select(self, arguments: tuple) -> list:
        """Returns the arrays of `(hparams, args, kwargs)`."""
        pairs = zip(jax.tree.leaves(arguments), self.static, strict=True)
        return [leaf for leaf, static in pairs if static is _ARRAY]


_ARRAY = object()


def attach_derivative(
    problem: Problem, params: PyTree, hparams: PyTree, args: tuple, kwargs: dict
) -> PyTree:
    """Returns `params` with the derivatives of the solution of `problem`.

    No derivative flows through `params` as they come.
    """
    structure: Any
    leaves, structure = jax.tree.flatten((hparams, args, kwargs))
    arrays = [x for x in leaves if _is_array(x)]
    static = [_ARRAY if _is_array(x) else x for x in leaves]
    arguments = _Arguments(structure, static)
    params = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, params))

    def function(theta: PyTree, arrays: list) -> PyTree:
        lam, others, named = arguments.merge(arrays)
        value = problem.function(theta, lam, *others, **named)
        if problem.curvature is None:
            checks.check_like("The value of `optimality_fn`", value, "`params`", theta)
            return tree.cast_like(value, theta)
        return value

    # Values that the function closes over become arguments, for their derivatives.
    vary, _ = collectives(problem.axis_name)
    example = _vary_floats(vary, (params, arrays))
    converted, captured = jax.closure_convert(function, *example)

    @jax.custom_jvp
    def attach(theta: PyTree, arrays: list, captured: list) -> PyTree:
        del arrays, captured
        return theta

    @attach.defjvp
    def attach_jvp(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
        theta = attach(*primals)  # Differentiable, for higher derivatives.
        system = _linearize(problem, converted, arguments, theta, primals[1:])
        return theta, system(tangents[1:])

    return attach(params, arrays, captured)


def _linearize(
    problem: Problem,
    function: Callable,
    arguments: _Arguments,
    theta: PyTree,
    operands: tuple[list, list],
) -> Callable[[tuple], PyTree]:
    """Returns the derivative of the solution: tangents of the operands -> of theta."""
    vary, mean = collectives(problem.axis_name)
    params = theta
    theta, operands = _vary_floats(vary, (theta, operands))

    def optimality(theta: PyTree, arrays: list, captured: list) -> PyTree:
        if problem.curvature is None:
            return function(theta, arrays, *captured)
        return jax.grad(function)(theta, arrays, *captured)

    def local_matvec() -> Matvec:
        if problem.curvature is None:
            return jax.linearize(lambda w: optimality(w, *operands), theta)[1]
        lam, args, _ = arguments.merge(operands[0])

        def loss(w: PyTree, lam: PyTree, *args: Any) -> jax.Array:
            _, _, kwargs = arguments.merge(operands[0])
            return function(w, arguments.select((lam, args, kwargs)), *operands[1])

        return problem.curvature(loss, theta, lam, args)

    def derivative(tangents: tuple) -> PyTree:
        _, b = jax.jvp(
            lambda arrays, captured: optimality(theta, arrays, captured),
            operands,
            _vary_floats(vary, tangents),
        )
        b = jax.tree.map(jnp.negative, mean(tree.promote(b)))
        matvec = mean_product(local_matvec(), theta, vary, mean)
        x = _solve(problem, matvec, _together(vary(b)), vary, mean)
        x = tree.cast_like(mean(x), params)  # Equal already, but not known to be.
        return jax.tree.map(tree.vary_like, x, params)

    return derivative


def _vary_floats(vary: Callable, operands: tuple) -> tuple:
    """Marks inexact arrays as varying; integers have tangents of no type of theirs."""
    return jax.tree.map(
        lambda x: vary(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, operands
    )


def _together(b: PyTree) -> PyTree:
    """Makes all leaves depend on the tangents where one does.

    Reverse mode through `custom_linear_solve` fails where only some of them do, that
    is where an equation has no hyperparameter in it.
    """
    leaves = jax.tree.leaves(b)
    if len({tree.varying_axes(leaf) for leaf in leaves}) != 1:
        return b
    # Zero, whatever the leaves hold. The compiler removes it.
    nothing = jnp.stack([jnp.sum(jnp.where(False, leaf, 0)) for leaf in leaves]).sum()
    return jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), b)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _solve(
    problem: Problem, matvec: LinearMap, b: PyTree, vary: Callable, mean: Callable
) -> PyTree:
    """Returns `A^-1 b`, with derivatives in A and b by solves with the same solver.

    Operands are marked as varying over the devices, because cotangents are.
    """

    def solve_with(matrix: LinearMap) -> Callable:
        def solve(_: Matvec, rhs: PyTree) -> PyTree:
            # One right-hand side for all devices, whose loops end together then.
            unit, norm = tree.normalize(mean(rhs))
            x, _ = solve_from(
                lambda b, scale: call_solver(problem.solver, matrix, b, scale),
                matrix,
                unit,
                None,
            )
            return vary(tree.scale(norm, x))

        return solve

    def varying_matvec(v: PyTree) -> PyTree:
        return vary(matvec(v))

    solve = solve_with(matvec)
    if problem.curvature is not None:
        return jax.lax.custom_linear_solve(varying_matvec, b, solve, symmetric=True)
    transposed = solve_with(LinearMap(matvec.transposed, matvec.product))
    return jax.lax.custom_linear_solve(varying_matvec, b, solve, transposed)
