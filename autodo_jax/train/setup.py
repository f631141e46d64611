"""What an experiment consists of before its first step: data, steps, state."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import ml_collections

from autodo_jax import config as config_lib
from autodo_jax import models, objective
from autodo_jax.data import experiment as experiments
from autodo_jax.data.dataset import Dataset
from autodo_jax.train import steps
from autodo_jax.train.state import (
    Optimizers,
    TrainState,
    create_optimizers,
    create_state,
)


class RunError(Exception):
    """A run that cannot go on; the message says what happened and how to mend it."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What stays the same through a run: data on the device and compiled steps."""

    config: ml_collections.ConfigDict
    experiment: experiments.Experiment
    train: steps.DeviceData
    validation: steps.DeviceData
    test: steps.DeviceData
    optimizers: Optimizers
    num_steps: int  # batches in an epoch
    task_step: Callable
    hyper_step: Callable
    eval_step: Callable
    task_key: chex.PRNGKey
    hyper_key: chex.PRNGKey

    @property
    def learns(self) -> bool:
        """True where Lambda is updated at all."""
        hyper = self.config.hyper
        return config_lib.has_hyperparams(hyper) and not hyper.frozen


def prepare(config: ml_collections.ConfigDict) -> tuple[Setup, TrainState]:
    """Loads the data and returns the compiled steps with the state of line 1.

    Raises:
      DataError: data that is absent or cannot be used.
      RunError: a batch larger than the train or the validation set.
    """
    experiment = experiments.load(config)
    train, validation, test = experiment.splits
    most = min(len(train.labels), len(validation.labels))
    if config.batch_size > most:
        raise RunError(
            f"config.batch_size is {config.batch_size}, but there are only "
            f"{len(train.labels)} train and {len(validation.labels)} validation "
            f"points; pass --config.batch_size={most} or less."
        )
    num_steps = len(train.labels) // config.batch_size
    model = models.create(config.model, experiment.num_classes)
    losses = objective.create(config, model)
    optimizers = create_optimizers(config, num_steps)
    init_key, task_key, hyper_key = jax.random.split(jax.random.key(config.seed), 3)
    setup = Setup(
        config=config,
        experiment=experiment,
        train=_to_device(train),
        validation=_to_device(validation),
        test=_to_device(test),
        optimizers=optimizers,
        num_steps=num_steps,
        task_step=jax.jit(steps.create_task_step(losses, optimizers), donate_argnums=0),
        hyper_step=jax.jit(
            steps.create_hyper_step(losses, optimizers, config.hyper), donate_argnums=0
        ),
        eval_step=jax.jit(steps.create_eval_step(losses)),
        task_key=task_key,
        hyper_key=hyper_key,
    )
    state = create_state(
        config,
        model,
        optimizers,
        labels=setup.train.labels,
        num_classes=experiment.num_classes,
        image_shape=jax.eval_shape(losses.clean_inputs, train.images[:1]).shape[1:],
        key=init_key,
    )
    return setup, state


def _to_device(dataset: Dataset) -> steps.DeviceData:
    return steps.DeviceData(*jax.device_put((dataset.images, dataset.labels)))
