"""The steps of Algorithm 1 and of the evaluation, as pure functions of one device.

Each device has its shard of the batch, all parameters, and its block of Lambda's rows.
The functions run under `distributed.spmd` or `jax.pmap`, with AXIS bound.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from autodo_jax import distributed, losses
from autodo_jax._typing import (
    EvaluationStep,
    FeaturesStep,
    HyperStep,
    Metrics,
    PyTree,
    TaskStep,
)
from autodo_jax.data.batches.batch import Batch, Points, take
from autodo_jax.distributed import AXIS, REPLICATED
from autodo_jax.implicit import value_and_hypergrad
from autodo_jax.objective import Objective, Rows, split_theta
from autodo_jax.train import joined
from autodo_jax.train.solver import create_solver, diverges
from autodo_jax.train.state import Optimizers, TrainState

ChangeRows = Callable[[Rows, Batch], Rows]  # of Lambda, before a task step uses them


class Steps(NamedTuple):
    """The compiled steps of a run."""

    task: TaskStep[TrainState, Points]
    early: TaskStep[TrainState, Points]  # clean points after the train points
    joined: TaskStep[TrainState, Points]  # of the last epochs, with decided labels
    plain: TaskStep[TrainState, Points]  # as `joined`, without g_A
    hyper: HyperStep[TrainState, Points]
    evaluate: EvaluationStep[Points]
    features: FeaturesStep[Points]
    log_probabilities: FeaturesStep[Points]


def compile(
    objective: Objective,
    optimizers: Optimizers,
    hyper: ml_collections.ConfigDict,
    *,
    mesh: Mesh,
    state_specs: TrainState,
    points_specs: Any,
    start_rows: Callable[[chex.Array], Rows] = lambda labels: {},
    num_train: int = 0,
    state_formats: Any = None,
) -> Steps:
    """Returns the steps of a run for all devices of a mesh.

    They compile when they are first called. The task and the hyper step donate the
    state, and run K steps where the `index` of their points is [K, B].

    Args:
      objective: the losses.
      optimizers: of theta and Lambda.
      hyper: config.hyper.
      mesh: of the devices.
      state_specs: PartitionSpecs of a state.
      points_specs: PartitionSpecs of the points of a step.
      start_rows: labels [B] -> the rows of Lambda at its start.
      num_train: N; points from N on are clean ones that have joined.
      state_formats: `distributed.formats` of the state; None: what arrays come in.
    """
    spmd = functools.partial(distributed.spmd, mesh=mesh)

    def formats(num_others: int) -> dict[str, Any]:
        if state_formats is None:
            return {}
        return {
            "in_shardings": (state_formats, *[None] * num_others),
            "out_shardings": (state_formats, None),
        }

    def task_step(change_rows: ChangeRows) -> TaskStep[TrainState, Points]:
        return spmd(
            scan_steps(create_task_step(objective, optimizers, change_rows)),
            in_specs=(state_specs, points_specs, REPLICATED),
            out_specs=(state_specs, REPLICATED),
            donate=(0,),
            **formats(2),
        )

    early = functools.partial(joined.start_of_clean_points, start_rows, num_train)

    def last(rows: Rows, batch: Batch) -> Rows:
        return joined.decide_labels(start_rows, early(rows, batch), batch)

    def plain(rows: Rows, batch: Batch) -> Rows:
        return joined.without_augmentation(last(rows, batch))

    return Steps(
        task=task_step(lambda rows, batch: rows),
        early=task_step(early),
        joined=task_step(last),
        plain=task_step(plain),
        hyper=spmd(
            scan_steps(create_hyper_step(objective, optimizers, hyper)),
            in_specs=(state_specs, points_specs, points_specs, REPLICATED),
            out_specs=(state_specs, REPLICATED),
            donate=(0,),
            **formats(3),
        ),
        evaluate=spmd(
            create_eval_step(objective),
            in_specs=(REPLICATED, REPLICATED, points_specs),
            out_specs=REPLICATED,
        ),
        features=spmd(
            create_features_step(objective),
            in_specs=(REPLICATED, REPLICATED, points_specs),
            out_specs=REPLICATED,
        ),
        log_probabilities=spmd(
            create_log_probabilities_step(objective),
            in_specs=(REPLICATED, REPLICATED, points_specs),
            out_specs=REPLICATED,
        ),
    )


def point_keys(key: chex.PRNGKey, step: chex.Array, index: chex.Array) -> chex.PRNGKey:
    """Returns keys [B] that depend on (key, step, point) and on nothing else."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(index)


def local_batch(points: Points) -> Batch:
    """Returns this device's shard of the points of a step.

    Args:
      points: `index` of all points of the step, [B]; of a `Batch` this device's shard
        of images and labels.
    """
    index = distributed.local_shard(points.index)
    if isinstance(points, Batch):
        return points._replace(index=index)
    return take(*points._replace(index=index))


def scan_steps(step: Callable) -> Callable:
    """Runs K steps in one `lax.scan` where the `index` of the points is [K, B].

    They are one program, without the host in between; metrics then are [K].
    """

    @functools.wraps(step)
    def steps(state: TrainState, *operands: Any) -> tuple[TrainState, Metrics]:
        *points, key = operands
        if points[0].index.ndim == 1:
            return step(state, *operands)

        def one(state: TrainState, indices: list[chex.Array]) -> tuple:
            chosen = map(lambda p, index: p._replace(index=index), points, indices)
            return step(state, *chosen, key)

        return jax.lax.scan(one, state, [p.index for p in points])

    return steps


def create_task_step(
    objective: Objective,
    optimizers: Optimizers,
    change_rows: ChangeRows = lambda rows, batch: rows,
) -> TaskStep[TrainState, Points]:
    """Returns `(state, points, key) -> (state, metrics)`: lines 4-9.

    Args:
      objective: the losses.
      optimizers: of theta and Lambda.
      change_rows: of Lambda, before they are used.
    """

    def task_step(
        state: TrainState, points: Points, key: chex.PRNGKey
    ) -> tuple[TrainState, Metrics]:
        batch = local_batch(points)  # line 4
        gathered = distributed.gather_local_rows(state.tables, points.index)
        rows = change_rows(gathered, batch)
        keys = point_keys(key, state.step, batch.index)
        (loss, batch_stats), grads = jax.value_and_grad(  # lines 5-8
            objective.task_loss, has_aux=True
        )(state.params, state.batch_stats, rows, batch, keys)
        loss, grads = distributed.mean((loss, grads))
        values = {
            "train_loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": optimizers.task_schedule(state.step),
        }
        updates, optimizer_state = optimizers.task.update(  # line 9
            grads, state.optimizer_state, state.params
        )
        state = state._replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimizer_state=optimizer_state,
        )
        return state, values

    return task_step


def create_hyper_step(
    objective: Objective, optimizers: Optimizers, hyper: ml_collections.ConfigDict
) -> HyperStep[TrainState, Points]:
    """Returns `(state, points, validation_points, key) -> (state, metrics)`.

    Lines 12-19.
    """
    solver = create_solver(hyper)

    def inner_loss(theta: PyTree, rows: Rows, *args: Any) -> chex.Array:
        # A function of all rows, which every device holds: their gradient is averaged
        # over the devices like any other.
        local_rows = jax.tree.map(distributed.local_shard, rows)
        return objective.inner_loss(theta, local_rows, *args)

    def hyper_step(
        state: TrainState,
        points: Points,
        validation_points: Points,
        key: chex.PRNGKey,
    ) -> tuple[TrainState, Metrics]:
        batch = local_batch(points)  # line 12
        validation_batch = local_batch(validation_points)  # line 13
        # The gradient is taken in the gathered rows, never in the N x K table.
        rows = distributed.gather_rows(state.tables, points.index)
        count = state.hyper_optimizer_state.count
        keys = point_keys(key, count, batch.index)
        theta, others = split_theta(state.params, hyper.theta)
        outer_loss, row_grads, info = value_and_hypergrad(  # lines 14-18
            inner_loss,
            objective.outer_loss,
            theta,
            rows,
            inner_args=(others, state.batch_stats, batch, keys),
            outer_args=(others, state.batch_stats, validation_batch),
            solver=solver,
            axis_name=AXIS,
        )
        positions = {
            name: distributed.positions(table, points.index)
            for name, table in state.tables.items()
        }
        learning_rate = optimizers.hyper_schedule(count)
        tables, hyper_optimizer_state = optimizers.hyper.update(  # line 19
            state.tables,
            state.hyper_optimizer_state,
            row_grads,
            positions,
            learning_rate,
        )
        solve = info.solver_info
        diverged = solve.diverged
        if hyper.solver == "neumann" and hyper.on_divergence == "stop":
            diverged = diverges(info.residual_norm)
        state = state._replace(
            tables=tables, hyper_optimizer_state=hyper_optimizer_state
        )
        return state, {
            "outer_loss": outer_loss,
            "residual_norm": info.residual_norm,
            "inner_grad_norm": info.inner_grad_norm,
            "curvature": info.curvature,
            "lambda_max": solve.lambda_max,
            "neumann_horizon": solve.step_size * solve.lambda_max * hyper.num_terms,
            "hypergrad_norm": optax.tree.norm(row_grads),
            "lambda_norm": distributed.norm(tables, points.index),
            "hyper_learning_rate": learning_rate,
            "diverged": diverged.astype(jnp.float32),
        }

    return hyper_step


def create_eval_step(objective: Objective) -> EvaluationStep[Points]:
    """Returns `(params, batch_stats, points) -> (losses, predictions, confidences)`.

    Each is [B]; a confidence is the probability of the predicted class.
    """

    def eval_step(
        params: PyTree, batch_stats: PyTree, points: Points
    ) -> tuple[chex.Array, ...]:
        batch = local_batch(points)
        logits = objective.predict(params, batch_stats, batch.image)
        point_losses = losses.cross_entropy(logits, batch.label)
        confidences = jnp.max(jax.nn.softmax(logits), axis=-1)
        outputs = (point_losses, jnp.argmax(logits, -1), confidences)
        return jax.tree.map(distributed.all_gather, outputs)

    return eval_step


def create_features_step(objective: Objective) -> FeaturesStep[Points]:
    """Returns `(params, batch_stats, points) -> features [B, D]`."""

    def features_step(
        params: PyTree, batch_stats: PyTree, points: Points
    ) -> chex.Array:
        images = local_batch(points).image
        return distributed.all_gather(objective.features(params, batch_stats, images))

    return features_step


def create_log_probabilities_step(objective: Objective) -> FeaturesStep[Points]:
    """Returns `(params, batch_stats, points) -> log probabilities [B, C]`."""

    def log_probabilities_step(
        params: PyTree, batch_stats: PyTree, points: Points
    ) -> chex.Array:
        logits = objective.predict(params, batch_stats, local_batch(points).image)
        return distributed.all_gather(jax.nn.log_softmax(logits))

    return log_probabilities_step
