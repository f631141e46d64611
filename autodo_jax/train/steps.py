"""The two steps of Algorithm 1 and the evaluation, as pure functions to be jitted."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax

from autodo_jax import losses
from autodo_jax.data import pipeline
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.implicit import solvers, value_and_hypergrad
from autodo_jax.objective import Objective, split_theta
from autodo_jax.train.state import Optimizers, TrainState

Metrics = dict[str, chex.Array]

# Power iterations behind lambda_max. Where theta is all parameters and lambda_max is
# logged only, a product is dear and a rough value will do.
_EIGENVALUE_STEPS, _ROUGH_EIGENVALUE_STEPS = 10, 2


class DeviceData(NamedTuple):
    """A data set on the device."""

    images: chex.Array  # uint8 [N, H, W, C]
    labels: chex.Array  # int32 [N]


class HeadSolve(NamedTuple):
    """What the linear solve of a hyper step reports."""

    lambda_max: chex.Array  # largest eigenvalue of the Hessian in theta
    step_size: chex.Array  # of the Neumann series; 0 for other solvers


def create_solver(hyper: ml_collections.ConfigDict) -> solvers.Solver:
    """Returns the configured solver, which also reports a `HeadSolve`."""
    is_rough = hyper.theta == "all" and not hyper.auto_step_size
    num_steps = _ROUGH_EIGENVALUE_STEPS if is_rough else _EIGENVALUE_STEPS

    def solve(matvec, b):
        lambda_max = solvers.largest_eigenvalue(matvec, b, num_steps=num_steps)
        step_size = jnp.zeros(())
        if hyper.solver == "conjugate_gradient":
            x, _ = solvers.conjugate_gradient(hyper.num_terms)(matvec, b)
        elif hyper.solver == "identity":
            x = solvers.identity()(matvec, b)
        else:
            step_size = jnp.asarray(hyper.step_size)
            if hyper.auto_step_size:
                step_size = 1 / jnp.maximum(lambda_max, jnp.finfo(jnp.float32).tiny)
            x = solvers.neumann(hyper.num_terms, step_size)(matvec, b)
        return x, HeadSolve(lambda_max, step_size)

    return solve


def point_keys(key: chex.PRNGKey, step: chex.Array, index: chex.Array) -> chex.PRNGKey:
    """Returns keys [B] that depend on (key, step, point) and on nothing else."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(index)


def create_task_step(objective: Objective, optimizers: Optimizers) -> Callable:
    """Returns `(state, train, index, key) -> (state, metrics)`: lines 4-9."""

    def task_step(
        state: TrainState, train: DeviceData, index: chex.Array, key: chex.PRNGKey
    ) -> tuple[TrainState, Metrics]:
        batch = pipeline.take(train.images, train.labels, index)  # line 4
        rows = hyperparams.gather(state.tables, index)
        keys = point_keys(key, state.step, index)
        (loss, batch_stats), grads = jax.value_and_grad(  # lines 5-8
            objective.task_loss, has_aux=True
        )(state.params, state.batch_stats, rows, batch, keys)
        updates, optimizer_state = optimizers.task.update(  # line 9
            grads, state.optimizer_state, state.params
        )
        state = state._replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimizer_state=optimizer_state,
        )
        return state, {"train_loss": loss}

    return task_step


def create_hyper_step(
    objective: Objective, optimizers: Optimizers, hyper: ml_collections.ConfigDict
) -> Callable:
    """Returns `(state, train, validation, index, validation_index, key) ->
    (state, metrics)`: lines 12-19.
    """
    solver = create_solver(hyper)

    def hyper_step(
        state: TrainState,
        train: DeviceData,
        validation: DeviceData,
        index: chex.Array,
        validation_index: chex.Array,
        key: chex.PRNGKey,
    ) -> tuple[TrainState, Metrics]:
        batch = pipeline.take(train.images, train.labels, index)  # line 12
        validation_batch = pipeline.take(  # line 13
            validation.images, validation.labels, validation_index
        )
        # The gradient is taken in the gathered rows, never in the N x K table.
        rows = hyperparams.gather(state.tables, index)
        count = state.hyper_optimizer_state.count
        keys = point_keys(key, count, index)
        theta, others = split_theta(state.params, hyper.theta)
        outer_loss, row_grads, info = value_and_hypergrad(  # lines 14-18
            objective.inner_loss,
            objective.outer_loss,
            theta,
            rows,
            inner_args=(others, state.batch_stats, batch, keys),
            outer_args=(others, state.batch_stats, validation_batch),
            solver=solver,
        )
        tables, hyper_optimizer_state = optimizers.hyper.update(  # line 19
            state.tables,
            state.hyper_optimizer_state,
            row_grads,
            index,
            optimizers.hyper_schedule(count),
        )
        lambda_max, step_size = info.solver_info
        state = state._replace(
            tables=tables, hyper_optimizer_state=hyper_optimizer_state
        )
        return state, {
            "outer_loss": outer_loss,
            "residual_norm": info.residual_norm,
            "inner_grad_norm": info.inner_grad_norm,
            "curvature": info.curvature,
            "lambda_max": lambda_max,
            "neumann_horizon": step_size * lambda_max * hyper.num_terms,
        }

    return hyper_step


def create_eval_step(objective: Objective) -> Callable:
    """Returns `(params, batch_stats, data, index) -> (losses, predictions)`, [B]."""

    def eval_step(params, batch_stats, data: DeviceData, index: chex.Array):
        batch = pipeline.take(data.images, data.labels, index)
        logits = objective.predict(params, batch_stats, batch.image)
        return losses.cross_entropy(logits, batch.label), jnp.argmax(logits, -1)

    return eval_step
