"""Schedules and optimizers against the numbers of App. A and PyTorch's update rules."""

import jax.numpy as jnp
import numpy as np

from autodo_jax.config import default_config
from autodo_jax.train import state


def test_schedule_rises_and_falls_as_written():
    schedule = state.cosine_schedule(
        0.1, epochs=20, warmup_epochs=5, steps_per_epoch=10
    )
    assert np.isclose(schedule(0), 0.01)
    assert np.isclose(schedule(25), 0.055)  # half way up
    assert np.isclose(schedule(50), 0.1)
    assert np.isclose(schedule(125), (0.1 + 1e-4) / 2)  # half way down
    assert np.isclose(schedule(200), 1e-4)


def test_schedule_of_a_run_shorter_than_its_warm_up_still_falls():
    schedule = state.cosine_schedule(1.0, epochs=2, warmup_epochs=5, steps_per_epoch=4)
    assert np.isclose(schedule(4), 1.0) and np.isclose(schedule(8), 1e-3)


def test_task_optimizer_is_nesterov_sgd_with_coupled_weight_decay():
    config = default_config()
    optimizers = state.create_optimizers(config, steps_per_epoch=3)
    theta = {"w": jnp.array([1.0, -2.0])}
    opt_state = optimizers.task.init(theta)
    velocity, expected = np.zeros(2), np.array([1.0, -2.0])
    for step in range(4):
        grad = np.array([0.3, -0.1]) * (step + 1)
        updates, opt_state = optimizers.task.update(
            {"w": jnp.asarray(grad, jnp.float32)}, opt_state, theta
        )
        theta = {"w": theta["w"] + updates["w"]}
        decayed = grad + 1e-4 * expected
        velocity = 0.9 * velocity + decayed
        rate = float(optimizers.task_schedule(step))
        expected = expected - rate * (decayed + 0.9 * velocity)
    np.testing.assert_allclose(theta["w"], expected, rtol=1e-5)


def test_hyper_schedule_covers_the_epochs_after_the_start():
    config = default_config()
    config.epochs, config.hyper.start_epoch = 30, 10
    optimizers = state.create_optimizers(config, steps_per_epoch=2)
    assert np.isclose(optimizers.hyper_schedule(0), 0.005)
    assert np.isclose(optimizers.hyper_schedule(10), 0.05)
    assert np.isclose(optimizers.hyper_schedule(40), 5e-5)
