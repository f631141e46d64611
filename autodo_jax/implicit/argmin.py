"""Derivatives of a solver of the inner problem by the implicit function theorem."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, tree
from autodo_jax.implicit.curvature import Curvature, hessian
from autodo_jax.implicit.krylov import conjugate_gradient
from autodo_jax.implicit.linear import Matvec, Solver, split_info


def implicit_argmin(
    inner_loss: Callable,
    solver: Solver | None = None,
    curvature: Curvature | None = None,
) -> Callable[[Callable], Callable]:
    """Decorates `solve(hparams, *args) -> params` with derivatives of the argmin.

    Property that must hold: `d_params inner_loss(solve(h, *args), h, *args) = 0`. Then
    the derivative of `solve` is `-[d2_params L_t]^-1 d_params d_(h, args) L_t` (Eq. 4),
    whatever the algorithm inside, at a memory cost that does not grow with its steps.
    Supports forward and reverse mode, jacfwd, jacrev, vmap and higher derivatives, in
    `hparams` as well as in the floating leaves of `args` (data).

    Args:
      inner_loss: `(params, hparams, *args) -> scalar`, which `solve` minimizes.
      solver: solver of the linear system, which is symmetric in both modes; None:
        `solvers.conjugate_gradient(100)`.
      curvature: approximation of the Hessian; None: the Hessian itself.

    Raises:
      TypeError: an argument that is not callable, at decoration; leaves of `hparams`
        that are not floating, at the call.
      ValueError: an inner loss that is not scalar, when differentiated.
    """
    checks.check_callable("inner_loss", inner_loss, "see the docstring")
    solver = conjugate_gradient(100) if solver is None else solver
    checks.check_callable("solver", solver, "such as solvers.conjugate_gradient()")
    curvature = hessian() if curvature is None else curvature
    checks.check_callable("curvature", curvature, "such as curvature.hessian()")
    inner_loss = checks.scalar_loss("inner_loss", inner_loss)

    def decorate(solve: Callable) -> Callable:
        checks.check_callable("solve", solve, "decorate a function of hparams")

        @jax.custom_jvp
        def argmin(hparams: PyTree, args: tuple) -> PyTree:
            return solve(hparams, *args)

        @argmin.defjvp
        def argmin_jvp(
            primals: tuple[PyTree, tuple], tangents: tuple[PyTree, tuple]
        ) -> tuple[PyTree, PyTree]:
            theta = argmin(*primals)  # Differentiable, for higher derivatives.

            def gradient_at_theta(hparams: PyTree, args: tuple) -> PyTree:
                return jax.grad(inner_loss)(theta, hparams, *args)

            _, b = jax.jvp(gradient_at_theta, primals, tangents)
            theta_dot = _solve_symmetric(
                curvature(inner_loss, theta, primals[0], primals[1]), b, theta, solver
            )
            return theta, jax.tree.map(jnp.negative, theta_dot)

        @functools.wraps(solve)
        def wrapper(hparams: PyTree, *args: Any) -> PyTree:
            checks.check_floating("hparams", hparams)
            return argmin(hparams, args)

        return wrapper

    return decorate


def _solve_symmetric(
    matvec: Matvec, b: PyTree, params: PyTree, solver: Solver
) -> PyTree:
    """Returns `A^-1 b`, with derivatives in A and b by solves with the same solver."""

    def on_vectors(v: PyTree) -> PyTree:
        return tree.promote(matvec(tree.cast_like(v, params)))

    def solve(product: Matvec, rhs: PyTree) -> PyTree:
        return split_info(solver(product, rhs), rhs)[0]

    x = jax.lax.custom_linear_solve(
        on_vectors, tree.promote(b), solve=solve, symmetric=True
    )
    return tree.cast_like(x, params)
