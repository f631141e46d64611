"""The solves of a head on given features, and the step of its Lambda, compiled."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax

from autodo_jax import config as config_lib
from autodo_jax._typing import Metrics, PyTree
from autodo_jax.hyperparams.state import Tables
from autodo_jax.implicit import solvers, value_and_hypergrad
from autodo_jax.train.newton import Minimum, minimize
from autodo_jax.train.problem import Part, Points, Problem, transposed
from autodo_jax.train.state import LearnedHead, initial_tables

_ADJOINT_TOL = 1e-2  # residual of the linear solve of a hypergradient, relative


class Solves(NamedTuple):
    """The points of a run, and its functions, compiled when they are first called."""

    points: Points
    # (head, points, chosen clean points [M], train points that take part or None)
    fit: Callable[..., tuple[LearnedHead, Metrics]]
    # (head, points, chosen clean points)
    learn: Callable[..., tuple[LearnedHead, Metrics]]
    predict: Callable[[PyTree, chex.Array], chex.Array]  # (theta, coordinates)
    start: Callable[[], LearnedHead]  # before the first epoch


def learns(config: ml_collections.ConfigDict) -> bool:
    """True where Lambda is learned."""
    return config_lib.has_hyperparams(config.hyper) and not config.hyper.frozen


def create(
    config: ml_collections.ConfigDict,
    problem: Problem,
    points: Points,
    params: PyTree,
) -> Solves:
    """Returns the functions of a run.

    Args:
      config: validated configuration.
      problem: L_t and L_v.
      points: on the device.
      params: of the head at the start.
    """
    # One program for all solves, since it is long to compile.
    solve = jax.jit(functools.partial(_minimize, config, problem))
    predict = jax.jit(lambda theta, x: problem.logits(transposed(theta), x))
    fit = functools.partial(_fit, config, solve, predict)
    learn = jax.jit(functools.partial(_learn, config, problem))
    start = functools.partial(_start, config, points, params)
    return Solves(points, fit, learn, predict, start)


def _start(
    config: ml_collections.ConfigDict, points: Points, params: PyTree
) -> LearnedHead:
    num_classes = len(params["head"]["bias"])
    tables = initial_tables(config, points.labels, num_classes)
    return LearnedHead(
        theta=params,
        joined=params,
        adjoint=optax.tree.zeros_like(params),
        tables=tables,
        scale={name: jnp.zeros(()) for name in tables},
        start_norm=jnp.zeros(()),
        clean_logits=jnp.zeros((len(points.clean), num_classes)),
    )


def _minimize(
    config: ml_collections.ConfigDict,
    problem: Problem,
    theta: PyTree,
    tables: Tables,
    points: Points,
    part: Part,
    start_norm: chex.Array,
) -> Minimum:
    def curvature(theta: PyTree) -> tuple[solvers.Matvec, solvers.Matvec | None]:
        return (
            problem.curvature(problem.inner_loss, theta, tables, (points, part)),
            problem.preconditioner(theta, tables, points, part),
        )

    found = minimize(
        lambda theta: problem.inner_loss(theta, tables, points, part),
        curvature,
        transposed(theta),
        tolerance=config.task.tolerance,
        start_norm=start_norm,
        max_products=config.hyper.num_terms,
    )
    return found._replace(theta=transposed(found.theta))


def _fit(
    config: ml_collections.ConfigDict,
    solve: Callable[..., Minimum],
    predict: Callable[..., chex.Array],
    head: LearnedHead,
    points: Points,
    chosen: chex.Array,
    taking_part: chex.Array | None = None,
) -> tuple[LearnedHead, Metrics]:
    """Solves for theta (line 9), and for the head that clean points join.

    Each starts at the solution for the Lambda before, the first moved as the second
    was, since the two differ by few points. Without some of the train points it is not
    solved for: Lambda takes no step there.
    """
    train_on = config.data.train_on
    has_hyperparams = config_lib.has_hyperparams(config.hyper)
    joins = has_hyperparams and bool(config.task.joined_epochs)
    train = jnp.ones(points.labels.shape) if taking_part is None else taking_part
    nothing = jnp.zeros_like(chosen)
    alone = Part(train, nothing)
    both = Part(
        jnp.zeros_like(train) if train_on == "validation" else train,
        chosen if joins or train_on != "train" else nothing,
    )

    joined = theta = solve(head.joined, head.tables, points, both, head.start_norm)
    start_norm = joined.limit / config.task.tolerance
    if joins and learns(config) and taking_part is None:
        moved = optax.tree.sub(joined.theta, head.joined)
        guess = optax.tree.add(head.theta, moved)
        theta = solve(guess, head.tables, points, alone, start_norm)
    head = head._replace(
        theta=theta.theta,
        joined=joined.theta,
        start_norm=start_norm,
        clean_logits=predict(joined.theta, points.clean),
    )
    return head, {
        "train_loss": joined.loss,
        "grad_norm": joined.grad_norm,
        "newton_steps": joined.num_steps,
        "products": joined.num_products,
    }


def _learn(
    config: ml_collections.ConfigDict,
    problem: Problem,
    head: LearnedHead,
    points: Points,
    chosen: chex.Array,
) -> tuple[LearnedHead, Metrics]:
    """Lines 12-19 with all points: one step of Lambda down its hypergradient."""
    every = Part(jnp.ones(points.labels.shape), jnp.zeros_like(chosen))
    theta = transposed(head.theta)
    solver = solvers.conjugate_gradient(
        config.hyper.num_terms,
        tol=_ADJOINT_TOL,
        preconditioner=problem.preconditioner(theta, head.tables, points, every),
    )
    loss, grads, info = value_and_hypergrad(
        problem.inner_loss,
        problem.outer_loss,
        theta,
        head.tables,
        inner_args=(points, every),
        outer_args=(points, chosen),
        solver=solver,
        curvature=problem.curvature,
        x0=transposed(head.adjoint),
    )
    tables, scale = {}, {}
    for name, grad in grads.items():
        # RMSprop by entries would move all points alike, whatever their influence.
        size = jnp.sqrt(jnp.mean(grad**2))
        scale[name] = jnp.where(head.scale[name] > 0, head.scale[name], size)
        update = config.hyper.learning_rate * grad / (scale[name] + 1e-30)
        if config.hyper.max_update:
            update = jnp.clip(update, -config.hyper.max_update, config.hyper.max_update)
        tables[name] = head.tables[name] - update
    adjoint = transposed(info.solution)
    head = head._replace(tables=tables, scale=scale, adjoint=adjoint)
    return head, {
        "outer_loss": loss,
        "residual_norm": info.residual_norm,
        "inner_grad_norm": info.inner_grad_norm,
        "curvature": info.curvature,
        "hypergrad_norm": optax.tree.norm(grads),
    }
