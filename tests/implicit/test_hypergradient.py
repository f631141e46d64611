"""The bank of problems P1 to P12, in double and in single precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import autodo_jax.implicit as library
from autodo_jax.implicit import hypergrad, hypergrad_root, solvers
from tests.implicit import bank, problems
from tests.implicit.reference import run_once


@pytest.mark.parametrize("name", problems.MINIMA)
def test_minima(name, precision):
    bank.check_minimum(library, problems.MINIMA[name](), precision)


def test_root_of_a_map_without_symmetry(precision):
    bank.check_root(library, problems.equilibrium(), precision)


def test_root_by_the_default_solver(precision):
    problem = problems.equilibrium()
    params, hparams, inner_args, outer_args = problem.operands
    got = run_once(
        lambda *args: hypergrad_root(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=args,
            outer_args=outer_args,
        ),
        *inner_args,
    )
    bank.assert_close("default", got, problem.reference, 1e-5)


def test_the_root_of_a_gradient_is_a_minimum(precision):
    problem = problems.coupled_quadratic()
    params, hparams, inner_args, outer_args = problem.operands
    got = run_once(
        lambda *args: hypergrad_root(
            jax.grad(problem.inner),
            problem.outer,
            params,
            hparams,
            inner_args=args,
            outer_args=outer_args,
            solver=solvers.dense(),
        ),
        *inner_args,
    )
    bank.assert_close("root", got, problem.reference, precision)


def test_root_with_stop_gradient(x64):
    """A semi-gradient: the true Jacobian of the update is [[1, 1], [0, 1]]."""

    def loss(w, h):
        return 0.5 * jnp.sum((w - h) ** 2) + w[0] * jax.lax.stop_gradient(w[1])

    hparams, target = jnp.array([0.3, -1.2]), jnp.array([1.0, 2.0])
    params = jnp.array([0.3 + 1.2, -1.2])

    def outer(w, h):
        del h
        return 0.5 * jnp.sum((w - target) ** 2)

    def update(w, h):
        # The gradient with w[1] held in the loss, and not in what comes out.
        return jnp.stack([w[0] - h[0] + w[1], w[1] - h[1]])

    np.testing.assert_allclose(update(params, hparams), jax.grad(loss)(params, hparams))
    got = run_once(
        lambda: hypergrad_root(update, outer, params, hparams, solver=solvers.dense())
    )
    slope = np.linalg.solve([[1.0, 1.0], [0.0, 1.0]], np.eye(2))
    expected = slope.T @ np.asarray(params - target)
    bank.assert_close("semi-gradient", got, expected, 1e-10)


@pytest.mark.parametrize(
    ("problem", "num_steps"),
    [
        (problems.coupled_quadratic, 1),
        (problems.coupled_quadratic, 3),
        (problems.coupled_quadratic, 10),
        (problems.logistic, 3),
        (problems.scalar_ridge, 10),
    ],
)
def test_neumann_is_unrolled_descent(problem, num_steps, precision):
    bank.check_unrolled(library, problem(), num_steps, precision)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_neumann_is_its_partial_sum(damping, x64):
    """On both sides of 8 products, where the loop is no longer unrolled."""
    bank.check_partial_sums(library, (0, 1, 5, 8, 9, 30), damping)


def test_finite_differences(x64):
    """P10: central differences at h and h / 2, extrapolated, through a new solve."""
    problem = problems.logistic()
    step = 2e-3

    @jax.jit
    def value(hparams):
        params = problem.solve(hparams, *map(jnp.asarray, problem.inner_args))
        return problem.outer(params, hparams, *map(jnp.asarray, problem.outer_args))

    def central(i, h):
        offset = h * np.eye(problem.hparams.size)[i]
        return (value(problem.hparams + offset) - value(problem.hparams - offset)) / (
            2 * h
        )

    expected = np.array(
        [
            (4 * central(i, step / 2) - central(i, step)) / 3
            for i in range(problem.hparams.size)
        ]
    )
    got = bank.hypergrads(
        library,
        problem,
        {
            "dense": solvers.dense(),
            "conjugate_gradient": solvers.conjugate_gradient(100),
        },
    )
    for name, grads in got.items():
        bank.assert_close(name, grads, expected, 1e-10)


def test_nystrom_at_the_rank_of_the_hessian(precision):
    bank.check_nystrom(library, precision)


def test_nystrom_at_full_rank(precision):
    problem = problems.coupled_quadratic()
    key = jax.random.key(1)
    ranks = {rank: solvers.nystrom(rank, 0.0, key) for rank in (12, 50)}
    for rank, got in bank.hypergrads(library, problem, ranks).items():
        bank.assert_close(f"rank {rank}", got, problem.reference, 1e-4)


def test_warm_start(precision):
    bank.check_warm_start(library, precision)


def test_tiny_outer_losses():
    bank.check_tiny(library)


@pytest.mark.parametrize("num_terms", [0, 3, 10])
def test_a_batch_for_each_product(num_terms, precision):
    bank.check_batches(library, num_terms, precision)


def test_against_a_long_unrolled_solve():
    """Logistic regression: reverse mode through 2,000 steps of gradient descent."""
    problem = problems.logistic()
    _, hparams, inner_args, outer_args = problem.operands

    def descend(hparams):
        def step(w, _):
            return w - 0.8 * jax.grad(problem.inner)(w, hparams, *inner_args), None

        return jax.lax.scan(step, jnp.zeros_like(hparams), None, length=2000)[0]

    @jax.jit
    def both(hparams):
        unrolled = jax.grad(lambda h: problem.outer(descend(h), h, *outer_args))(
            hparams
        )
        implicit = hypergrad(
            problem.inner,
            problem.outer,
            descend(hparams),
            hparams,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.conjugate_gradient(50),
        )
        return implicit, unrolled

    implicit, unrolled = both(hparams)
    bank.assert_close("unrolled", implicit, unrolled, 1e-4)


def test_minibatches_are_unbiased(x64):
    """Over all draws of three batches, the mean is that of the mean loss."""
    rng = np.random.default_rng(1)
    factors = rng.standard_normal((3, 12, 12))
    hessians = factors @ factors.transpose(0, 2, 1) / 12
    couplings = rng.standard_normal((3, 12, 4))
    problem = problems.coupled_quadratic()
    params, hparams, _, outer_args = problem.operands
    draws = np.stack(np.meshgrid(*[np.arange(3)] * 4, indexing="ij"), -1).reshape(-1, 4)

    def run(solver, **batches):
        return hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            outer_args=outer_args,
            solver=solver,
            **batches,
        )

    solver = solvers.neumann(3, step_size=0.1)
    each = run_once(
        jax.vmap(lambda *batches: run(solver, inner_batches=batches)),
        jnp.asarray(hessians[draws]),
        jnp.asarray(couplings[draws]),
    )
    mean = tuple(jnp.asarray(x.mean(0)) for x in (hessians, couplings))
    whole = run_once(lambda *mean: run(solver, inner_args=mean), *mean)
    bank.assert_close("mean", each.mean(0), whole, 1e-10)
    assert float(each.std(0).max()) > 0.1


def test_momentum_map_has_the_same_hypergradient(x64):
    """The fixed point of heavy-ball descent: more state, no symmetry, one answer."""
    problem = problems.coupled_quadratic()
    params, hparams, (hessian, coupling), outer_args = problem.operands
    flat = ravel_pytree(params)[0]

    def optimality(state, hparams):
        slope = hessian @ state["w"] + coupling @ hparams
        velocity = 0.5 * state["v"] - 0.1 * slope
        return {"w": -velocity, "v": state["v"] - velocity}

    def outer(state, hparams):
        return problem.outer(problems.coupled_tree(state["w"]), hparams, *outer_args)

    got = run_once(
        lambda state: hypergrad_root(
            optimality, outer, state, hparams, solver=solvers.dense()
        ),
        {"w": flat, "v": jnp.zeros(12)},
    )
    bank.assert_close("momentum", got, problem.reference, 1e-10)
