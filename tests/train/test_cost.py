"""What a hypergradient step costs, in floating point operations as written for XLA.

A task step is three forwards' worth: forward, and backward to weights and activations.
"""

import numpy as np
import pytest

from autodo_jax.config import apply_method, default_config
from autodo_jax.train import evaluate, setup
from benchmarks import common

BATCH = 128


def flops_of_steps(method, depth, width):
    """Of a WRN-depth-width: task step, hypergradient step, and one of known features.

    The features are those of the validation points, whose forward pass they save.
    """
    config = default_config()
    apply_method(config, method)
    config.batch_size, config.num_devices = BATCH, 1
    config.augment.policy = "none"  # long to compile, and without influence
    config.data.mean, config.data.std = (0.5,) * 3, (0.25,) * 3
    config.model.depth, config.model.width = depth, width
    ready, state = setup.prepare(config, splits=common.random_parts(BATCH, 32))
    (task,) = next(ready.feed.batches("task", 0))
    train, validation = next(ready.feed.batches("hyper", 0))
    known = evaluate.use_features(validation, np.zeros((BATCH, 64 * width), np.float32))

    def flops(step, *operands):
        return step.lower(state, *operands).cost_analysis()["flops"]

    return (
        flops(ready.steps.task, task, ready.task_key),
        flops(ready.steps.hyper, train, validation, ready.hyper_key),
        flops(ready.steps.hyper, train, known, ready.hyper_key),
    )


@pytest.mark.parametrize(
    ("depth", "width"), [(10, 1), pytest.param(16, 2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("method", "forwards"),
    [
        # A validation forward, a train forward, and one backward to the image.
        ("autodo", 3),
        # Without A the forwards only.
        ("autodo_s", 2),
    ],
)
def test_hypergradient_step_in_task_steps(method, forwards, depth, width):
    task, hyper, known = flops_of_steps(method, depth, width)
    assert hyper / task == pytest.approx(forwards / 3, abs=0.05)
    assert known / task == pytest.approx((forwards - 1) / 3, abs=0.05)
