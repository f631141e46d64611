"""What a hypergradient step costs, in floating point operations of compiled programs.

A task step is three forwards' worth: forward, and backward to weights and activations.
"""

import numpy as np
import pytest

from autodo_jax.config import apply_method, default_config
from autodo_jax.data.dataset import Dataset, Parts
from autodo_jax.train import evaluate, setup

BATCH = 128


def random_parts():
    """One batch of random 32x32 images each for train, validation and test."""
    rng = np.random.default_rng(0)
    labels = (np.arange(BATCH) % 10).astype(np.int32)
    ids = np.arange(BATCH).astype(str)

    def points():
        images = rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
        return Dataset(images, labels, ids, class_names=tuple("0123456789"))

    return Parts(points(), points(), points())


def flops_of_steps(method, depth, width, *, with_features=False):
    """Of a task step and a hypergradient step of a WRN-depth-width."""
    config = default_config()
    apply_method(config, method)
    config.batch_size, config.num_devices = BATCH, 1
    config.augment.policy = "none"  # long to compile, and without influence
    config.data.mean, config.data.std = (0.5,) * 3, (0.25,) * 3
    config.model.depth, config.model.width = depth, width
    ready, state = setup.prepare(config, parts=random_parts())
    (task,) = next(ready.feed.batches("task", 0))
    train, validation = next(ready.feed.batches("hyper", 0))
    if with_features:
        features = evaluate.all_features(ready, state, "validation", 0)
        validation = evaluate.with_features(validation, features)

    def flops(step, *operands):
        return step.lower(state, *operands).compile().cost_analysis()["flops"]

    return (
        flops(ready.task_step, task, ready.task_key),
        flops(ready.hyper_step, train, validation, ready.hyper_key),
    )


@pytest.mark.full_compile
@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2)])
@pytest.mark.parametrize(
    ("method", "least", "most"),
    [
        # A validation forward, a train forward, and one backward to the image.
        ("autodo", 0.95, 1.05),
        # Without A two forwards.
        ("autodo_s", 0.6, 0.72),
    ],
)
def test_hypergradient_step_in_task_steps(method, least, most, depth, width):
    task, hyper = flops_of_steps(method, depth, width)
    assert least <= hyper / task <= most


@pytest.mark.full_compile
@pytest.mark.parametrize(
    ("method", "least", "most"), [("autodo", 0.62, 0.72), ("autodo_s", 0.3, 0.39)]
)
def test_known_features_save_the_validation_forward(method, least, most):
    task, hyper = flops_of_steps(method, 10, 1, with_features=True)
    assert least <= hyper / task <= most
