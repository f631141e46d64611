"""The solves of heads on given features, and the steps of their Lambdas, compiled.

What a solve takes its time for is to read the points. So several heads are solved side
by side, by products with the columns of all of them; each stops by itself.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
# Of the widest layer of the heads that are solved side by side: more columns make a
# product no faster, and take memory by each point.
_COLUMNS = 128


class Solves(NamedTuple):
    """The points of a run, and its functions, compiled when they are first called.

    Heads are a `LearnedHead` whose arrays have a leading axis K.
    """

    points: Points
    # (heads, chosen clean points [K, M], train points that take part [K, N] or None)
    fit: Callable[..., tuple[LearnedHead, Metrics]]
    # (heads, chosen clean points)
    learn: Callable[[LearnedHead, chex.Array], tuple[LearnedHead, Metrics]]
    # (tables, scale, theta, adjoint) of one head
    repeat: Callable[[Tables, dict[str, chex.Array], PyTree, PyTree], Tables]
    predict: Callable[[PyTree, chex.Array], chex.Array]  # (theta, coordinates)
    start: Callable[[int], LearnedHead]  # K heads before the first epoch


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
    width = max(leaf.shape[-1] for leaf in jax.tree.leaves(params))
    # One program for all solves, since it is long to compile.
    solve = _side_by_side(functools.partial(_minimize, config, problem), width)
    learn = _side_by_side(functools.partial(_learn, config, problem), width)
    repeat = jax.jit(functools.partial(_repeat, config, problem))
    return Solves(
        points,
        functools.partial(_fit, config, functools.partial(solve, points), points),
        functools.partial(learn, points),
        functools.partial(repeat, points),
        jax.jit(lambda theta, x: problem.logits(transposed(theta), x)),
        functools.partial(_start, config, points, params),
    )


def _side_by_side(function: Callable[..., Any], width: int) -> Callable[..., Any]:
    """Returns `(points, *arguments [K, ...])`, compiled: the function of each head."""

    def mapped(points: Points, *arguments: PyTree) -> Any:
        num_heads = len(jax.tree.leaves(arguments)[0])
        most = max(_COLUMNS // width, 1)
        size = max(n for n in range(1, most + 1) if num_heads % n == 0)
        return jax.lax.map(
            lambda one: function(points, *one),
            arguments,
            batch_size=size if size > 1 else None,  # A batch takes more memory.
        )

    return jax.jit(mapped)


def _start(
    config: ml_collections.ConfigDict, points: Points, params: PyTree, num_heads: int
) -> LearnedHead:
    num_classes = len(params["head"]["bias"])
    tables = initial_tables(config, points.labels, num_classes)
    head = LearnedHead(
        theta=params,
        joined=params,
        adjoint=optax.tree.zeros_like(params),
        tables=tables,
        scale={name: jnp.zeros(()) for name in tables},
        start_norm=jnp.zeros(()),
        clean_logits=jnp.zeros((len(points.clean), num_classes)),
    )
    heads = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_heads), head)
    # Where later ones will be: programs are compiled for a place.
    return jax.device_put(heads, points.labels.sharding)


def _minimize(
    config: ml_collections.ConfigDict,
    problem: Problem,
    points: Points,
    theta: PyTree,
    tables: Tables,
    part: Part,
    start_norm: chex.Array,
) -> tuple[Minimum, chex.Array]:
    """Returns the minimum, and the logits of the clean points there."""

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
    logits = problem.logits(found.theta, points.clean)
    return found._replace(theta=transposed(found.theta)), logits


def _fit(
    config: ml_collections.ConfigDict,
    solve: Callable[..., tuple[Minimum, chex.Array]],
    points: Points,
    heads: LearnedHead,
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
    every = jnp.ones((len(chosen), len(points.labels)))
    train = every if taking_part is None else taking_part
    nothing = jnp.zeros_like(chosen)
    alone = Part(train, nothing)
    both = Part(
        jnp.zeros_like(train) if train_on == "validation" else train,
        chosen if joins or train_on != "train" else nothing,
    )

    joined, logits = solve(heads.joined, heads.tables, both, heads.start_norm)
    theta, start_norm = joined, joined.limit / config.task.tolerance
    if joins and learns(config) and taking_part is None:
        moved = optax.tree.sub(joined.theta, heads.joined)
        guess = optax.tree.add(heads.theta, moved)
        theta, _ = solve(guess, heads.tables, alone, start_norm)
    heads = heads._replace(
        theta=theta.theta,
        joined=joined.theta,
        start_norm=start_norm,
        clean_logits=logits,
    )
    return heads, {
        "train_loss": joined.loss,
        "grad_norm": joined.grad_norm,
        "newton_steps": joined.num_steps,
        "products": joined.num_products,
    }


def _learn(
    config: ml_collections.ConfigDict,
    problem: Problem,
    points: Points,
    head: LearnedHead,
    chosen: chex.Array,
) -> tuple[LearnedHead, Metrics]:
    """Lines 12-19 with all points: one step of Lambda down its hypergradient."""
    every, theta = _train_points(points), transposed(head.theta)
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
    scale = {}
    for name, grad in grads.items():
        # RMSprop by entries would move all points alike, whatever their influence.
        size = jnp.sqrt(jnp.mean(grad**2))
        scale[name] = jnp.where(head.scale[name] > 0, head.scale[name], size)
    tables = _moved(config, head.tables, scale, grads)
    adjoint = transposed(info.solution)
    return head._replace(tables=tables, scale=scale, adjoint=adjoint), {
        "outer_loss": loss,
        "residual_norm": info.residual_norm,
        "inner_grad_norm": info.inner_grad_norm,
        "curvature": info.curvature,
        "hypergrad_norm": optax.tree.norm(grads),
    }


def _repeat(
    config: ml_collections.ConfigDict,
    problem: Problem,
    points: Points,
    tables: Tables,
    scale: dict[str, chex.Array],
    theta: PyTree,
    adjoint: PyTree,
) -> Tables:
    """Returns the tables of a step that was taken, without its solve."""
    every = _train_points(points)

    def gradient(theta: PyTree) -> Tables:
        return jax.grad(problem.inner_loss, 1)(theta, tables, points, every)

    # The mixed term of Eq. 5.
    _, mixed = jax.jvp(gradient, [transposed(theta)], [transposed(adjoint)])
    return _moved(config, tables, scale, optax.tree.scale(-1, mixed))


def _moved(
    config: ml_collections.ConfigDict,
    tables: Tables,
    scale: dict[str, chex.Array],
    grads: Tables,
) -> Tables:
    moved = {}
    for name, grad in grads.items():
        update = config.hyper.learning_rate * grad / (scale[name] + 1e-30)
        if config.hyper.max_update:
            update = jnp.clip(update, -config.hyper.max_update, config.hyper.max_update)
        moved[name] = tables[name] - update
    return moved


def _train_points(points: Points) -> Part:
    return Part(jnp.ones(points.labels.shape), jnp.zeros(points.clean_labels.shape))
