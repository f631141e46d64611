"""Losses and predictions of a part of the data."""

import jax
import numpy as np

from autodo_jax import metrics
from autodo_jax.train.setup import Setup
from autodo_jax.train.state import TrainState


def evaluate(
    setup: Setup, state: TrainState, part: str, epoch: int
) -> metrics.Evaluation:
    """Evaluates points without augmentation, in their order; a part may have none."""
    labels = getattr(setup.experiment.splits, part).labels
    if not len(labels):
        nothing = np.zeros(0, np.float32)
        return metrics.Evaluation(nothing, labels, nothing, labels)
    outputs = [
        setup.eval_step(state.params, state.batch_stats, *points)
        for points in setup.feed.batches(part, epoch)
    ]
    losses, predictions, confidences = (
        np.concatenate(parts)[: len(labels)]
        for parts in zip(*jax.device_get(outputs), strict=True)
    )
    return metrics.Evaluation(losses, predictions, confidences, labels)


def features(
    setup: Setup, state: TrainState, part: str, index: np.ndarray
) -> np.ndarray:
    """Returns the inputs of the head for the points `index` of a part, [F, D]."""
    if not len(index):
        return np.zeros((0, 0))
    found, start = [], 0
    for (points,) in setup.feed.batches(part, setup.config.epochs):
        row = index[(index >= start) & (index < start + len(points.index))] - start
        start += len(points.index)
        if len(row):
            values = setup.feature_step(state.params, state.batch_stats, points)
            found.append(jax.device_get(values)[row])
    return np.concatenate(found)
