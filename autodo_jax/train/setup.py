"""What an experiment consists of before its first step: data, steps, state."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import chex
import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding

from autodo_jax import config as config_lib
from autodo_jax import distributed, models, objective
from autodo_jax.data import run_data as experiments
from autodo_jax.data.batches import plan as pipeline
from autodo_jax.data.batches import streamed as stream
from autodo_jax.data.dataset import Parts
from autodo_jax.distributed import AXIS, BY_ROWS, REPLICATED
from autodo_jax.hyperparams.row_rmsprop import RowRMSpropState
from autodo_jax.objective import Objective
from autodo_jax.train import steps
from autodo_jax.train.state import (
    Optimizers,
    TrainState,
    create_optimizers,
    create_state,
)

_STEPS_PER_DISPATCH = 16  # on accelerators


class RunError(Exception):
    """A run that cannot go on; the message says what happened and how to mend it."""


class Feed(Protocol):
    """Where the steps get their points from."""

    def batches(
        self, phase: str, epoch: int, start: int = 0
    ) -> Iterator[tuple[pipeline.Points, ...]]:
        """Yields what each step of a phase of the plan takes, from `start` on.

        Or several steps at once, as `steps.several` does.
        """


@dataclasses.dataclass(frozen=True)
class Setup:
    """What stays the same through a run: data, their order, and compiled steps."""

    config: ml_collections.ConfigDict
    experiment: experiments.Experiment
    plan: pipeline.Plan
    feed: Feed
    mesh: Mesh
    objective: Objective
    optimizers: Optimizers
    task_step: Callable
    hyper_step: Callable
    eval_step: Callable
    features_step: Callable
    task_key: chex.PRNGKey
    hyper_key: chex.PRNGKey


def prepare(
    config: ml_collections.ConfigDict,
    *,
    parts: Parts | None = None,
    model: nn.Module | None = None,
) -> tuple[Setup, TrainState]:
    """Loads the data and returns the compiled steps with the state of line 1.

    Args:
      config: validated configuration.
      parts: data that stand for those of `config.data.source`.
      model: network that stands for the one of `config.model`; see `models`.

    Raises:
      DataError: data that is absent or cannot be used.
      RunError: a batch larger than the train or the validation set, or one that the
        devices cannot share equally; images smaller than what is to be cut from them.
    """
    try:
        num_devices = distributed.usable_devices(config.batch_size, config.num_devices)
    except ValueError as error:
        raise RunError(str(error)) from error
    mesh = distributed.create_mesh(num_devices)
    experiment = (
        experiments.create(config, parts) if parts else experiments.load(config)
    )
    _check_sizes(config, experiment)
    plan = _plan(config, experiment, num_devices)
    if model is None:
        model = models.create(config.model, experiment.num_classes, AXIS)
    losses = objective.create(config, model)
    optimizers = create_optimizers(config, plan.num_steps)
    init_key, *keys = jax.random.split(jax.random.key(config.seed), 3)
    task_key, hyper_key = distributed.place(mesh, keys)
    train = experiment.splits.train
    images = jax.ShapeDtypeStruct((1, *train.images.shape[1:]), np.uint8)
    create = functools.partial(
        create_state,
        config,
        model,
        optimizers,
        num_classes=experiment.num_classes,
        image_shape=jax.eval_shape(losses.clean_inputs, images).shape[1:],
    )
    specs, state = _place_state(mesh, create, init_key, train.labels)
    feed, points = _feed(config, experiment, plan, mesh)
    spmd = functools.partial(distributed.spmd, mesh=mesh)
    setup = Setup(
        config=config,
        experiment=experiment,
        plan=plan,
        feed=feed,
        mesh=mesh,
        objective=losses,
        optimizers=optimizers,
        task_step=spmd(
            steps.several(steps.create_task_step(losses, optimizers)),
            in_specs=(specs, points, REPLICATED),
            out_specs=(specs, REPLICATED),
            donate=(0,),
        ),
        hyper_step=spmd(
            steps.several(steps.create_hyper_step(losses, optimizers, config.hyper)),
            in_specs=(specs, points, points, REPLICATED),
            out_specs=(specs, REPLICATED),
            donate=(0,),
        ),
        eval_step=spmd(
            steps.create_eval_step(losses),
            in_specs=(REPLICATED, REPLICATED, points),
            out_specs=REPLICATED,
        ),
        features_step=spmd(
            steps.create_features_step(losses),
            in_specs=(REPLICATED, REPLICATED, points),
            out_specs=REPLICATED,
        ),
        task_key=task_key,
        hyper_key=hyper_key,
    )
    return setup, state


def _place_state(
    mesh: Mesh, create: Callable, key: chex.PRNGKey, labels: np.ndarray
) -> tuple[TrainState, TrainState]:
    """Returns the specs of a state, and the state itself, made where it is to be."""
    padding = distributed.padded_rows(len(labels), mesh.size) - len(labels)
    labels = np.pad(labels, (0, padding), constant_values=-1)
    specs = state_specs(jax.eval_shape(create, key, labels))
    placed = jax.jit(create, out_shardings=distributed.shardings(mesh, specs))
    return specs, placed(key, labels)


def state_specs(state: TrainState) -> TrainState:
    """Returns where each part of a state is: Lambda by rows, the rest everywhere."""
    tables = {
        name: REPLICATED if len(table) == 1 else BY_ROWS
        for name, table in state.tables.items()
    }
    everywhere: Any = TrainState(*[REPLICATED] * len(state))  # type: ignore[arg-type]
    by_rows: Any = RowRMSpropState(REPLICATED, nu=tables, last_touch=tables)
    return everywhere._replace(tables=tables, hyper_optimizer_state=by_rows)


def _check_sizes(
    config: ml_collections.ConfigDict, experiment: experiments.Experiment
) -> None:
    train, validation, _ = experiment.splits
    most = min(len(train.labels), len(validation.labels))
    if config.batch_size > most:
        raise RunError(
            f"config.batch_size is {config.batch_size}, but there are only "
            f"{len(train.labels)} train and {len(validation.labels)} validation "
            f"points; pass --config.batch_size={most} or less."
        )
    height, width = train.images.shape[1:3]
    if min(height, width) < config.augment.crop_size:
        raise RunError(
            f"images of {height}x{width} pixels are smaller than "
            f"config.augment.crop_size={config.augment.crop_size}; lower it, or resize "
            "them by --config.data.image_size='(HEIGHT, WIDTH)'"
        )


def _plan(
    config: ml_collections.ConfigDict,
    experiment: experiments.Experiment,
    num_devices: int,
) -> pipeline.Plan:
    num_points = {
        name: len(part.labels) for name, part in experiment.splits._asdict().items()
    }
    learns = config_lib.has_hyperparams(config.hyper) and not config.hyper.frozen
    return pipeline.Plan(
        num_points=num_points,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        num_devices=num_devices,
        epochs=config.epochs,
        start_epoch=config.hyper.start_epoch if learns else config.epochs,
        seed=config.seed,
    )


def _feed(
    config: ml_collections.ConfigDict,
    experiment: experiments.Experiment,
    plan: pipeline.Plan,
    mesh: Mesh,
) -> tuple[Feed, Any]:
    """Returns the feed, and specs of how the points of a step lie on the mesh."""
    parts = experiment.splits._asdict()
    if not config.data.stream:
        resident = {
            name: distributed.place(mesh, (part.images, part.labels))
            for name, part in parts.items()
        }
        # XLA's convolutions are many times slower within a loop on CPUs.
        usual = 1 if jax.default_backend() == "cpu" else _STEPS_PER_DISPATCH
        several = config.steps_per_dispatch or usual
        return pipeline.Resident(plan, resident, several), REPLICATED
    by_rows = NamedSharding(mesh, BY_ROWS)

    def to_device(batch: pipeline.Batch) -> pipeline.Batch:
        image, label = (
            jax.make_array_from_process_local_data(by_rows, local)
            for local in (batch.image, batch.label)
        )
        return batch._replace(image=image, label=label)

    feed = stream.Streamed(
        plan,
        parts,
        to_device=to_device,
        num_workers=config.data.num_workers,
        share=stream.Share(jax.process_index(), jax.process_count()),
    )
    return feed, pipeline.Batch(BY_ROWS, BY_ROWS, REPLICATED)
