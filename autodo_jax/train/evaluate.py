"""Losses and predictions of a part of the data."""

from typing import Any

import jax
import numpy as np

from autodo_jax import metrics
from autodo_jax.data.dataset import Dataset
from autodo_jax.train.setup import Setup
from autodo_jax.train.state import TrainState

PyTree = Any


def evaluate(
    setup: Setup, state: TrainState, part: str, epoch: int
) -> metrics.Evaluation:
    """Evaluates points without augmentation, in their order; a part may have none."""
    fetched = jax.device_get(start(setup, state, part, epoch))
    return finish(setup, part, fetched)


def start(setup: Setup, state: TrainState, part: str, epoch: int) -> list[PyTree]:
    """Starts to evaluate a part; what it returns is for `finish`, once on the host."""
    if not len(getattr(setup.experiment.splits, part).labels):
        return []
    return [
        setup.eval_step(state.params, state.batch_stats, *points)
        for points in setup.feed.batches(part, epoch)
    ]


def finish(setup: Setup, part: str, fetched: list[PyTree]) -> metrics.Evaluation:
    """Returns the evaluation of a part."""
    labels = getattr(setup.experiment.splits, part).labels
    if not fetched:
        nothing = np.zeros(0, np.float32)
        return metrics.Evaluation(nothing, labels, nothing, labels)
    losses, predictions, confidences = (
        np.concatenate(parts)[: len(labels)] for parts in zip(*fetched, strict=True)
    )
    return metrics.Evaluation(losses, predictions, confidences, labels)


def features(setup: Setup, state: TrainState, points: Dataset) -> np.ndarray:
    """Returns the inputs of the head for a few points, [F, D]; no other process helps.

    Args:
      setup, state: of the run.
      points: F of them.
    """
    params, batch_stats = jax.device_get((state.params, state.batch_stats))
    inputs_of_head = jax.jit(setup.objective.features)
    images, size = points.pixels(), setup.config.eval_batch_size
    found = [
        inputs_of_head(params, batch_stats, images[i : i + size])
        for i in range(0, len(images), size)
    ]
    return np.concatenate(jax.device_get(found)) if found else np.zeros((0, 0))
