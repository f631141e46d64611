"""The state that a run carries from step to step, and its optimizers."""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from autodo_jax import config as config_lib
from autodo_jax._typing import PyTree
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.hyperparams.row_rmsprop import (
    RowOptimizer,
    RowRMSpropState,
    row_rmsprop,
)
from autodo_jax.train import snapshot

# Numbers of App. A and of PyTorch's optimizers.
WARMUP_EPOCHS = 5  # of both schedules; that of Lambda begins at E
RMSPROP_DECAY, RMSPROP_EPS = 0.99, 1e-8  # of the second moment; outside the root


class LearnedHead(NamedTuple):
    """A head that is solved, and the Lambda it is solved for."""

    theta: PyTree  # of the train points alone, where Eq. 5 holds
    joined: PyTree  # of these and the clean points, if they take part
    adjoint: PyTree  # solution of the last linear solve, the start of the next
    tables: hyperparams.Tables
    scale: dict[str, chex.Array]  # root mean square of each first hypergradient
    start_norm: chex.Array  # of the gradient at the start
    clean_logits: chex.Array  # [M, C] of the clean points, by `joined`


class Path(NamedTuple):
    """What the steps of a Lambda came from; arrays have a leading axis of epochs."""

    theta: PyTree  # at the end of the epoch
    joined: PyTree
    adjoint: PyTree  # of the step at its start


class TrainState(NamedTuple):
    """theta, Lambda and their optimizers; a pytree of arrays."""

    step: chex.Array  # int32, task steps so far
    params: PyTree  # theta and the encoder's
    batch_stats: PyTree
    optimizer_state: optax.OptState
    tables: hyperparams.Tables  # Lambda
    hyper_optimizer_state: RowRMSpropState
    # Of a solved head, see train.solved: a LearnedHead of arrays [K, ...], those of the
    # folds and last that of all clean points; the Path of this one; and losses
    # [epochs, M] of held-out clean points.
    heads: PyTree = ()
    path: PyTree = ()
    held_out: PyTree = ()
    # With joined epochs: log-probabilities [M, C] of the clean points before these.
    unseen: PyTree = ()
    kept: PyTree = ()  # snapshot.Kept, where a run of steps has a guard


class Optimizers(NamedTuple):
    """The two optimizers with their schedules, which take the optimizer's own step."""

    task: optax.GradientTransformation
    task_schedule: optax.Schedule
    hyper: RowOptimizer
    hyper_schedule: optax.Schedule


def cosine_schedule(
    peak: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = WARMUP_EPOCHS,
) -> optax.Schedule:
    """Rises from peak / 10 in `warmup_epochs`, falls as a cosine to peak / 1000."""
    num_steps = max(epochs * steps_per_epoch, 1)
    return optax.schedules.warmup_cosine_decay_schedule(
        init_value=peak / 10,
        peak_value=peak,
        # Runs shorter than the warm-up get half of it.
        warmup_steps=min(warmup_epochs * steps_per_epoch, num_steps // 2),
        decay_steps=num_steps,
        end_value=peak / 1000,
    )


def create_optimizers(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> Optimizers:
    """Returns SGD with Nesterov momentum for theta and RMSprop for Lambda (App. A)."""
    task_schedule = cosine_schedule(
        config.task.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    hyper_schedule = cosine_schedule(
        config.hyper.learning_rate,
        epochs=config.epochs
        - config.hyper.start_epoch
        - config_lib.joined_epochs(config),
        steps_per_epoch=steps_per_epoch,
    )
    clip_norm, network = config.task.clip_norm, config.model
    slower = []
    if network.weights and not network.frozen_encoder:
        ratio = config.task.encoder_learning_rate / config.task.learning_rate
        slower = [optax.masked(optax.scale(ratio), _is_encoder)]
    task = optax.chain(
        *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
        optax.add_decayed_weights(config.task.weight_decay),
        optax.sgd(task_schedule, momentum=config.task.momentum, nesterov=True),
        *slower,
    )
    hyper = row_rmsprop(RMSPROP_DECAY, RMSPROP_EPS, config.hyper.max_update)
    return Optimizers(task, task_schedule, hyper, hyper_schedule)


def _is_encoder(params: PyTree) -> PyTree:
    """True for each array of a network but those of its head."""
    return {
        name: jax.tree.map(lambda _: name != "head", part)  # noqa: B023
        for name, part in params.items()
    }


def create_state(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    optimizers: Optimizers,
    key: chex.PRNGKey,
    labels: chex.Array,
    given: dict[str, PyTree],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    num_clean: int = 0,
    num_held_out: int = 0,
) -> TrainState:
    """Initializes theta and Lambda (Algorithm 1, line 1).

    Args:
      key: of the network's initialization.
      labels: given labels of the train set, [N]; -1 for rows that are padding.
      given: variables that are not initialized, as weights of an encoder.
      num_classes: C.
      image_shape: (H, W, channels).
      num_clean: M, of clean points that join; 0: they do not.
      num_held_out: of clean points that judge Lambda; 0: there is no guard.
    """
    images = jnp.zeros((1, *image_shape))
    kinds = ["params", "batch_stats"]
    _, variables = model.apply(
        given, images, train=False, rngs={"params": key}, mutable=kinds
    )
    tables = initial_tables(config, labels, num_classes)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        optimizer_state=optimizers.task.init(variables["params"]),
        tables=tables,
        hyper_optimizer_state=optimizers.hyper.init(tables),
        unseen=jnp.zeros((num_clean, num_classes)) if num_clean else (),
        kept=snapshot.start(tables, num_held_out) if num_held_out else (),
    )


def initial_tables(
    config: ml_collections.ConfigDict, labels: chex.Array, num_classes: int
) -> hyperparams.Tables:
    """Returns Lambda at its start.

    Args:
      config: of the run.
      labels: given labels of the train set, [N]; -1 for rows that are padding.
      num_classes: C.
    """
    return hyperparams.init(
        labels,
        num_classes=num_classes,
        augment=config.hyper.augment,
        num_operations=len(config.augment.operations),
        gate_probability=config.augment.gate_probability,
        weights=config.hyper.weights,
        soft_labels=config.hyper.soft_labels,
        smoothing=config.hyper.smoothing,
    )
