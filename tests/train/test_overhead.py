"""What a run does beside its steps: compilations, and waits for the host."""

import itertools

import jax
import jax._src.array  # No public name tells every transfer on CPUs.
import jax.numpy as jnp
import pytest

from autodo_jax.train import loop, run_log
from autodo_jax.train.setup import prepare
from configs import digits

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Counts:
    """Compilations and transfers to the host so far."""

    def __init__(self):
        self.compiled, self.fetched, self.unasked = 0, 0, 0
        self.inside = False

    def on_event(self, event, duration_secs, **kwargs):
        self.compiled += event == _COMPILED

    def device_get(self, tree):
        assert not self.inside
        self.fetched += 1
        self.inside = True
        try:
            return self.original_get(tree)
        finally:
            self.inside = False

    def watch(self, patch):
        self.original_get = jax.device_get
        patch.setattr(jax, "device_get", self.device_get)
        array = jax._src.array.ArrayImpl
        original = array._value

        def value(this):
            self.unasked += not self.inside
            return original.fget(this)

        patch.setattr(array, "_value", property(value))
        jax.monitoring.register_event_duration_secs_listener(self.on_event)

    def so_far(self):
        return self.compiled, self.fetched, self.unasked


@pytest.fixture
def counts(monkeypatch):
    counts = Counts()
    counts.watch(monkeypatch)
    yield counts
    jax.monitoring.unregister_event_duration_listener(counts.on_event)


@pytest.mark.parametrize("steps_per_dispatch", [1, 8])
def test_epochs_compile_nothing_and_fetch_once_an_interval(
    steps_per_dispatch, tmp_path, monkeypatch, counts
):
    config = digits.get_config("autodo")
    config.data.validation_size, config.task.joined_epochs = 0.3, 0
    config.epochs, config.hyper.start_epoch = 5, 1
    config.batch_size, config.num_devices = 8, 1
    config.steps_per_dispatch = steps_per_dispatch
    config.model.widths, config.augment.policy = (4, 4), "none"
    seen = []
    end_epoch = run_log.RunLog.end_epoch

    def note(self, record):
        num_steps = self.num_steps("task"), self.num_steps("hyper")
        end_epoch(self, record)
        seen.append((num_steps, counts.so_far()))

    monkeypatch.setattr(run_log.RunLog, "end_epoch", note)
    loop.run(*prepare(config), tmp_path)
    assert len(seen) == config.epochs and seen[0][1][0] > 0
    for (_, before), (num_steps, after) in itertools.pairwise(seen[1:]):
        assert min(num_steps) > 32
        # Every 32 steps of a phase, and with the evaluation at the end of the epoch.
        # Several steps at once: as often, though the first fetch has nothing yet.
        intervals = sum(number // 32 for number in num_steps) + 1
        change = tuple(b - a for a, b in zip(before, after, strict=True))
        assert change == (0, intervals, 0)


def test_what_is_counted(counts):
    value = jax.jit(lambda x: 2 * x)(jnp.ones(3))
    compiled, *_ = counts.so_far()
    assert compiled > 0 and counts.so_far()[1:] == (0, 0)
    jax.device_get((value, value + 1))
    assert counts.so_far()[1:] == (1, 0)
    float(value[0])
    assert counts.so_far()[1:] == (1, 1)
