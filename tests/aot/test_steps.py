"""The steps of a run for eight chips: what is exchanged, donated, and never used."""

import jax
import pytest

from autodo_jax import config as config_lib
from benchmarks import compiled
from benchmarks.abstract_run import AbstractRun, DataShape
from configs import digits


@pytest.fixture(scope="module")
def run(eight_chips):
    config = digits.get_config("autodo")
    config.batch_size, config.augment.policy = 64, "none"
    config_lib.validate(config)
    return AbstractRun(config, eight_chips, DataShape(519, 405, 10, (8, 8, 1)))


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compiling takes a third of the time; layouts and exchanges are the same."""
    name = "jax_optimization_level"
    before = getattr(jax.config, name)
    jax.config.update(name, "O0")
    yield
    jax.config.update(name, before)


@pytest.mark.parametrize(
    ("step", "num_steps"), [("task", 1), ("hyper", 1), ("evaluate", 1), ("task", 4)]
)
def test_a_step_for_eight_chips(run, step, num_steps):
    lowered = run.lower(step, num_steps)
    assert "callback" not in lowered.as_text()
    program = lowered.compile()
    assert not {"f64", "s64", "u64"} & compiled.dtypes(program)
    exchanged = compiled.collectives(program)
    assert exchanged.keys() <= {"all-reduce", "reduce-scatter", "all-gather"}
    total = sum(nbytes for _, nbytes in exchanged.values())
    assert total <= 1.01 * run.expected_exchange(step)
    memory = compiled.memory(program)
    assert memory.temp_size_in_bytes < 20e6
    if step != "evaluate":
        # The state is donated, all but its metrics, each in a tile of its own.
        assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 16 * 1024
