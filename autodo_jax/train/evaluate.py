"""Losses, predictions and features of a part of the data."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax import metrics
from autodo_jax._typing import PyTree
from autodo_jax.data.batches.batch import IndexedBatch, Points
from autodo_jax.models.network import Network
from autodo_jax.train.run_log import MAX_IN_FLIGHT
from autodo_jax.train.setup import Setup
from autodo_jax.train.state import TrainState


def evaluate(
    setup: Setup, state: TrainState, part: str, epoch: int
) -> metrics.Evaluation:
    """Evaluates points without augmentation, in their order; a part may be empty."""
    fetched = jax.device_get(start(setup, state, part, epoch))
    return finish(setup, part, fetched)


def start(
    setup: Setup,
    state: TrainState,
    part: str,
    epoch: int,
    features: chex.Array | None = None,
) -> list[PyTree]:
    """Starts to evaluate a part; the result, once on the host, is for `finish`.

    Args:
      setup, state, part, epoch: as `evaluate` takes them.
      features: of the part's points, from `compute_features`, if they are known.
    """
    if not len(getattr(setup.data.splits, part).labels):
        return []
    return _outputs(setup, setup.steps.evaluate, state, part, epoch, features)


def finish(setup: Setup, part: str, fetched: list[PyTree]) -> metrics.Evaluation:
    """Returns the evaluation of a part."""
    labels = getattr(setup.data.splits, part).labels
    if not fetched:
        nothing = np.zeros(0, np.float32)
        return metrics.Evaluation(nothing, labels, nothing, labels)
    losses, predictions, confidences = (
        np.concatenate(parts)[: len(labels)] for parts in zip(*fetched, strict=True)
    )
    return metrics.Evaluation(losses, predictions, confidences, labels)


def features_are_constant(setup: Setup) -> bool:
    """True where the features of resident points are the same in all hyper steps.

    Of a user's own module it is not known whether its logits are the head's alone.
    """
    config = setup.config
    is_known = isinstance(setup.objective.model, Network)
    return is_known and config.hyper.theta == "head" and not config.data.stream


def compute_features(
    setup: Setup, state: TrainState, part: str, epoch: int
) -> chex.Array:
    """Returns the inputs of the head for all points of a part, on the devices, [N, D].

    There may be padding after the last point.
    """
    found = _outputs(setup, setup.steps.features, state, part, epoch)
    return jnp.concatenate(found) if len(found) > 1 else found[0]


def log_probabilities(setup: Setup, state: TrainState, part: str) -> np.ndarray:
    """Returns the logarithms of the classes' probabilities, [N, C], of all points."""
    step, num_classes = setup.steps.log_probabilities, setup.data.num_classes
    number = len(getattr(setup.data.splits, part).labels)
    found = np.zeros((number, num_classes), np.float32)
    start = 0
    for (points,) in setup.feed.batches(part, setup.config.epochs):
        # Batch by batch: all of them may be more than the devices hold.
        values = jax.device_get(step(state.params, state.batch_stats, points))
        found[start : start + len(values)] = values[: number - start]
        start += len(values)
    return found


def of_log_probabilities(values: np.ndarray, labels: np.ndarray) -> metrics.Evaluation:
    """Returns the evaluation of points by their log probabilities [N, C]."""
    rows = np.arange(len(labels))
    predictions = np.argmax(values, axis=1)
    confidences = np.exp(values[rows, predictions])
    return metrics.Evaluation(-values[rows, labels], predictions, confidences, labels)


def use_features(points: Points, features: chex.Array | None) -> Points:
    """Returns the points with features, if given, in place of images."""
    if features is None or not isinstance(points, IndexedBatch):
        return points
    return points._replace(images=features, image_shape=None)


def features_of(
    setup: Setup, state: TrainState, part: str, index: np.ndarray
) -> np.ndarray:
    """Returns the inputs of the head for a few points, [F, D], in this process alone.

    Args:
      setup, state: of the run.
      part: of the data.
      index: ints [F], which of its points.
    """
    if setup.solves is not None:
        return np.asarray(setup.coordinates.get(part, np.zeros((0, 0))))[index]
    params, batch_stats = jax.device_get((state.params, state.batch_stats))
    inputs_of_head = jax.jit(setup.objective.features)
    images = getattr(setup.data.splits, part).take(index).pixels()
    size = setup.config.eval_batch_size
    found = [
        inputs_of_head(params, batch_stats, images[i : i + size])
        for i in range(0, len(images), size)
    ]
    return np.concatenate(jax.device_get(found)) if found else np.zeros((0, 0))


def _outputs(
    setup: Setup,
    step: Callable,
    state: TrainState,
    part: str,
    epoch: int,
    features: chex.Array | None = None,
) -> list[PyTree]:
    outputs: list[PyTree] = []
    for (points,) in setup.feed.batches(part, epoch):
        points = use_features(points, features)
        outputs.append(step(state.params, state.batch_stats, points))
        jax.block_until_ready(outputs[-MAX_IN_FLIGHT:][0])
    return outputs
