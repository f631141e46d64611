"""Checks of an implicit-differentiation library against the bank of problems.

Each check takes the library as a module, so that the same code holds for the package
and finds the bugs planted in copies of it. `tolerance` is 1e-10 in double precision
and 1e-5 in single.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from tests.implicit import problems
from tests.implicit.reference import Problem, relative_error, run_once

# Identities that hold to rounding, not just to the accuracy of a solve.
EXACT = {1e-10: 1e-12, 1e-5: 1e-6}
# What is left of the error after T = 12 kappa products at a step of 1 / lambda_max.
CONVERGED_NEUMANN = 1e-5

# For systems without symmetry, at full accuracy: the defaults stop at 1e-5.
gmres = functools.partial(jax.scipy.sparse.linalg.gmres, tol=1e-13)
bicgstab = functools.partial(jax.scipy.sparse.linalg.bicgstab, tol=1e-13)


def assert_close(name: str, got: Any, expected: Any, tolerance: float) -> None:
    error = relative_error(got, expected)
    assert error <= tolerance, f"{name}: relative error {error:.2e} > {tolerance:.0e}"


def hypergrads(library: Any, problem: Problem, solvers: dict, **options: Any) -> dict:
    """The hypergradient of `problem` by each of the solvers, compiled together."""

    def run(params, hparams, inner_args, outer_args):
        return {
            name: library.hypergrad(
                problem.inner,
                problem.outer,
                params,
                hparams,
                inner_args=inner_args,
                outer_args=outer_args,
                solver=solver,
                **options,
            )
            for name, solver in solvers.items()
        }

    return run_once(run, *problem.operands)


def check_minimum(library: Any, problem: Problem, tolerance: float) -> None:
    """P1 to P7: dense and conjugate gradients, and Neumann's series converged."""
    largest = problem.eigenvalues[-1]
    num_terms = int(np.ceil(12 * largest / problem.eigenvalues[0]))
    got = hypergrads(
        library,
        problem,
        {
            "dense": library.solvers.dense(),
            "conjugate_gradient": library.solvers.conjugate_gradient(100),
            "neumann": library.solvers.neumann(num_terms, 1 / largest),
        },
    )
    assert_close("neumann", got.pop("neumann"), problem.reference, CONVERGED_NEUMANN)
    for name, grads in got.items():
        assert_close(name, grads, problem.reference, tolerance)


def check_root(library: Any, problem: Problem, tolerance: float) -> None:
    """P8: a map whose Jacobian is not symmetric, by solvers for such systems."""
    solvers = {
        "dense": library.solvers.dense(),
        "neumann": library.solvers.neumann(100, step_size=1.0),
        "gmres": gmres,
        "bicgstab": bicgstab,
    }

    def run(params, hparams, inner_args, outer_args):
        return {
            name: library.hypergrad_root(
                problem.inner,
                problem.outer,
                params,
                hparams,
                inner_args=inner_args,
                outer_args=outer_args,
                solver=solver,
            )
            for name, solver in solvers.items()
        }

    for name, grads in run_once(run, *problem.operands).items():
        assert_close(name, grads, problem.reference, tolerance)


def check_unrolled(
    library: Any, problem: Problem, num_steps: int, tolerance: float
) -> None:
    """P9: K steps of gradient descent from the minimum are T = K - 1 terms."""
    rate = 0.7 / float(problem.eigenvalues[-1])

    def unrolled(params, hparams, inner_args, outer_args):
        def after_descent(hparams):
            w = params
            for _ in range(num_steps):
                slope = jax.grad(problem.inner)(w, hparams, *inner_args)
                w = jax.tree.map(lambda w, s: w - rate * s, w, slope)
            return problem.outer(w, hparams, *outer_args)

        return jax.grad(after_descent)(hparams)

    solver = library.solvers.neumann(num_steps - 1, step_size=rate)
    got = hypergrads(library, problem, {"neumann": solver})["neumann"]
    expected = run_once(unrolled, *problem.operands)
    assert_close(f"K={num_steps}", got, expected, EXACT[tolerance])


def check_partial_sums(library: Any, counts: tuple[int, ...], damping: float) -> None:
    """The solution is `a sum_{j<=T} (I - a (H + d I))^j b`, summed by numpy."""
    problem = problems.coupled_quadratic()
    step, system = 0.15, problem.hessian + damping * np.eye(12)
    got = hypergrads(
        library,
        problem,
        {T: library.solvers.neumann(T, step, damping=damping) for T in counts},
    )
    start = ravel_pytree(problem.params)[0] - problem.outer_args[0]
    power = total = start
    for num_terms in range(max(counts) + 1):
        if num_terms in counts:
            mixed = problem.inner_args[1].T @ (step * total)
            expected = np.cos(problem.hparams) - mixed
            assert_close(f"T={num_terms}", got[num_terms], expected, 1e-10)
            # Outside of jit step by step, as where a loop is unrolled.
            solver = library.solvers.neumann(num_terms, step)
            eager = solver(lambda v: jnp.asarray(system) @ v, jnp.asarray(start))
            assert_close(f"T={num_terms}, eager", eager, step * total, 1e-10)
        power = power - step * system @ power
        total = total + power


def check_warm_start(library: Any, tolerance: float) -> None:
    """P12: 20 terms, and 20 more from their solution, are 40 terms."""
    problem = problems.coupled_quadratic()

    def run(params, hparams, inner_args, outer_args):
        def solve(num_terms, x0=None):
            return library.value_and_hypergrad(
                problem.inner,
                problem.outer,
                params,
                hparams,
                inner_args=inner_args,
                outer_args=outer_args,
                solver=library.solvers.neumann(num_terms, step_size=0.2),
                x0=x0,
            )

        _, _, first = solve(19)
        _, grads, second = solve(19, first.solution)
        _, expected, whole = solve(39)
        return (grads, second.solution), (expected, whole.solution)

    got, expected = run_once(run, *problem.operands)
    assert_close("warm start", got, expected, EXACT[tolerance])


def check_nystrom(library: Any, tolerance: float) -> None:
    """P11: a Hessian of rank 5 plus 0.1 I is solved exactly at rank 5."""
    hessian, coupling = problems.coupled_matrices(low_rank=5)
    problem = problems.coupled_quadratic()
    b = ravel_pytree(problem.params)[0] - problem.outer_args[0]
    adjoint = np.linalg.solve(hessian + 0.1 * np.eye(12), b)
    expected = np.cos(problem.hparams) - coupling.T @ adjoint
    params, hparams, _, outer_args = problem.operands
    got = run_once(
        lambda *inner_args: library.hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=library.solvers.nystrom(5, 0.1, jax.random.key(0)),
        ),
        jnp.asarray(hessian),
        jnp.asarray(coupling),
    )
    assert_close("nystrom", got, expected, tolerance)


def check_batches(library: Any, num_terms: int, tolerance: float) -> None:
    """Product j sees batch j, the mixed term the last one; the sum is numpy's."""
    problem = problems.coupled_quadratic()
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((num_terms + 1, 12, 12))
    hessians = factors @ factors.transpose(0, 2, 1) / 12
    couplings = rng.standard_normal((num_terms + 1, 12, 4))
    step = 0.1
    power = total = ravel_pytree(problem.params)[0] - problem.outer_args[0]
    for hessian in hessians[:num_terms]:
        power = power - step * hessian @ power
        total = total + power
    expected = np.cos(problem.hparams) - couplings[-1].T @ (step * total)
    params, hparams, _, outer_args = problem.operands
    got = run_once(
        lambda *batches: library.hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_batches=batches,
            outer_args=outer_args,
            solver=library.solvers.neumann(num_terms, step_size=step),
        ),
        jnp.asarray(hessians),
        jnp.asarray(couplings),
    )
    assert_close("batches", got, expected, tolerance)


def check_shards(library: Any, tolerance: float) -> None:
    """P1b in four shards under a named vmap is P1b on the whole batch."""
    problem = problems.scalar_ridge()
    params, hparams, inner_args, outer_args = problem.operands

    def shards(args):
        return jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), args)

    @functools.partial(jax.vmap, axis_name="shard")
    def run(inner_args, outer_args):
        return library.hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=library.solvers.dense(),
            axis_name="shard",
        )

    got = run_once(run, shards(inner_args), shards(outer_args))
    for grads in np.asarray(got["c"]):
        assert_close("shards", {"c": grads}, problem.reference, tolerance)


def check_tiny(library: Any) -> None:
    """An outer loss of 1e-30 in float32 has the hypergradient of 1 times 1e-30."""
    problem = problems.feature_ridge()
    with jax.enable_x64(False):
        params, hparams, inner_args, outer_args = problem.operands
        got, info = run_once(
            lambda scale: library.value_and_hypergrad(
                problem.inner,
                lambda w, h, *args: scale * problem.outer(w, h, *args),
                params,
                hparams,
                inner_args=inner_args,
                outer_args=outer_args,
                solver=jax.scipy.sparse.linalg.cg,
            )[1:],
            1e-30,
        )
    assert_close("tiny", np.asarray(got, np.float64) * 1e30, problem.reference, 1e-4)
    rayleigh = float(info.curvature)
    assert problem.eigenvalues[0] <= rayleigh <= problem.eigenvalues[-1], rayleigh


QUICK_CHECKS = {
    "P4": lambda library: check_minimum(library, problems.coupled_quadratic(), 1e-10),
    "P1b": lambda library: check_minimum(library, problems.scalar_ridge(), 1e-10),
    "isotropic": lambda library: check_minimum(library, problems.isotropic(), 1e-10),
    "P8": lambda library: check_root(library, problems.equilibrium(), 1e-10),
    "P9": lambda library: check_unrolled(library, problems.scalar_ridge(), 10, 1e-10),
    "P11": lambda library: check_nystrom(library, 1e-10),
    "P12": lambda library: check_warm_start(library, 1e-10),
    "T=5": lambda library: check_partial_sums(library, (5,), 0.0),
    "batches": lambda library: check_batches(library, 3, 1e-10),
    "shards": lambda library: check_shards(library, 1e-10),
    "tiny": check_tiny,
}
