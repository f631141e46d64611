"""The solver of a hyper step, as configured (Algorithm 1, line 16; App. A)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import solvers

# Power iterations for lambda_max. Where theta is all parameters and lambda_max is
# only logged, a product is expensive and a rough value will do.
_EIGENVALUE_STEPS, _ROUGH_EIGENVALUE_STEPS = 10, 2


class HeadSolve(NamedTuple):
    """Report of the linear solve of a hyper step."""

    lambda_max: chex.Array  # largest eigenvalue of the Hessian in theta
    step_size: chex.Array  # of the Neumann series; 0 for other solvers
    diverged: chex.Array  # bool: the Neumann series did; x is its first term


def diverges(residual_norm: chex.Array) -> chex.Array:
    """True of a residual above that of x = 0, or one that is not finite.

    A convergent Neumann series never ends with such a residual, but for rounding.
    """
    return ~(residual_norm <= 1 + 1e-3)


def create_solver(hyper: ml_collections.ConfigDict) -> solvers.Solver:
    """Returns the configured solver, which also reports a `HeadSolve`."""
    num_steps = _EIGENVALUE_STEPS
    if hyper.auto_step_size:
        num_steps = solvers.AUTO_NUM_STEPS
    elif hyper.theta == "all":
        num_steps = _ROUGH_EIGENVALUE_STEPS

    def solve(matvec: solvers.Matvec, b: PyTree) -> tuple[PyTree, HeadSolve]:
        lambda_max = solvers.largest_eigenvalue(matvec, b, num_steps=num_steps)
        step_size, diverged = jnp.zeros(()), jnp.zeros((), bool)
        if hyper.solver == "conjugate_gradient":
            x, _ = solvers.conjugate_gradient(hyper.num_terms)(matvec, b)
        elif hyper.solver == "identity":
            x = solvers.identity()(matvec, b)
        else:
            step_size = jnp.asarray(hyper.step_size)
            if hyper.auto_step_size:
                step_size = solvers.auto_step_size(lambda_max)
            x = solvers.neumann(hyper.num_terms, step_size)(matvec, b)
            if hyper.on_divergence == "first_term":
                residual, norm = optax.tree.sub(matvec(x), b), optax.tree.norm(b)
                diverged = diverges(optax.tree.norm(residual) / norm) & (norm > 0)
                x = jax.tree.map(
                    lambda x, b: jnp.where(diverged, step_size * b, x), x, b
                )
        return x, HeadSolve(lambda_max, step_size, diverged)

    return solve
