"""Any values of a few fields: they are refused by name, or a step is taken."""

import math
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from autodo_jax import config as config_lib
from autodo_jax.augment.learned import OPERATIONS
from autodo_jax.errors import DataError, RunError
from autodo_jax.train import evaluate, setup
from tests.train.prepared import tiny_config

FIELDS = config_lib.flatten(tiny_config("autodo").to_dict())
# What a larger value would only take long for.
AT_MOST = {
    "model.depth": 22,
    "model.width": 2,
    "hyper.num_terms": 20,
    "augment.crop_size": 40,
    "augment.crop_padding": 40,
    "augment.rand_num_ops": 4,
    "augment.color_num_ops": 3,
    "augment.uniform_num_ops": 4,
}
SHARES = st.floats(0, 1)
NUMBERS = st.one_of(SHARES, st.floats(), st.sampled_from([0.0, 1.0, 1e30, -1.0]))
TUPLES: dict = {
    "data.mean": st.lists(st.floats(-1, 2), max_size=3),
    "data.std": st.lists(st.floats(-0.5, 2), max_size=3),
    "data.image_size": st.lists(st.integers(-1, 40), max_size=3),
    "model.widths": st.lists(st.integers(-1, 9), max_size=3),
    "augment.operations": st.lists(st.sampled_from([*OPERATIONS, "x"]), max_size=4),
}


def values_of(name):
    """A strategy for the values that the type of a field allows."""
    value = FIELDS[name]
    if name in config_lib.CHOICES:
        return st.sampled_from([*config_lib.CHOICES[name], "", "x"])
    if name in TUPLES:
        return TUPLES[name].map(lambda values: tuple(values))
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(-2, AT_MOST.get(name, 2**40)) | st.integers(0, 8)
    if isinstance(value, float):
        return NUMBERS
    return st.just(value)


# debug_nans raises on purpose; sources other than digits need files.
DRAWN = sorted(FIELDS.keys() - {"debug_nans", "data.source", "data.data_dir"})
CHANGES = st.lists(st.sampled_from(DRAWN), min_size=1, max_size=5, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: values_of(name) for name in names})
)


def changed_config(changes):
    config = tiny_config("autodo")
    config.model.depth, config.model.width = 10, 1  # where only the name is drawn
    config.update_from_flattened_dict(changes)
    return config


def assert_names_a_field(message):
    names = re.findall(r"config\.([a-z_.]+[a-z_])", message)
    assert set(names) & FIELDS.keys(), message
    assert "\n" not in message


@hypothesis.given(CHANGES)
@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_not_in_range_is_refused_by_name(changes):
    config = changed_config(changes)
    try:
        config_lib.validate(config)
    except ValueError as error:
        assert_names_a_field(str(error))
    else:
        numbers = [v for v in changes.values() if isinstance(v, (int, float))]
        assert all(math.isfinite(number) for number in numbers)


@pytest.mark.slow
@hypothesis.given(CHANGES)
@hypothesis.settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.generate],  # Simpler examples would take minutes to find.
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_what_is_in_range_takes_a_step_or_is_refused_by_name(changes):
    config = changed_config(changes)
    try:
        config_lib.validate(config)
    except ValueError:
        hypothesis.reject()
    try:
        ready, state = setup.prepare(config)
        ((train,), *_) = ready.feed.batches("task", 0)
        before = int(state.step)
        # One call to the devices takes as many as it may, an epoch's at most.
        num_steps = max(min(config.steps_per_dispatch, ready.plan.num_steps), 1)
        state, values = ready.steps.task(state, train, ready.task_key)
        assert int(state.step) == before + num_steps and "train_loss" in values
        if config_lib.has_hyperparams(config.hyper) and not config.hyper.frozen:
            batches = ready.feed.batches("hyper", config.hyper.start_epoch)
            points, validation = next(batches)
            state, _ = ready.steps.hyper(state, points, validation, ready.hyper_key)
            assert int(state.hyper_optimizer_state.count) == num_steps
        evaluation = evaluate.evaluate(ready, state, "test", 0)
        assert evaluation.losses.shape == (len(ready.data.splits.test.labels),)
    except (DataError, RunError) as error:
        assert_names_a_field(str(error))
