"""What does not fit is refused before the first step, with the number."""

import jax
import pytest

from autodo_jax.errors import RunError
from autodo_jax.train import fit, loop
from autodo_jax.train import setup as set_up
from tests.train.prepared import prepare, tiny_config

_check = fit.check
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Names:
    """The names of the programs that are compiled."""

    def __init__(self):
        self.names = []

    def __call__(self, event, duration_secs, fun_name="", **kwargs):
        if event == _COMPILED:
            self.names.append(fun_name)


def with_memory(patch, in_use, limit):
    patch.setattr(fit, "_memory", lambda device: (in_use, limit))


def test_devices_that_say_nothing_are_not_asked_to_compile():
    setup, state = prepare(tiny_config("autodo"))
    assert jax.devices()[0].memory_stats() is None
    assert fit.check(setup, state) is None


def test_a_run_that_fits_says_what_it_needs(monkeypatch):
    with_memory(monkeypatch, 30_000_000, 16_000_000_000)
    line = fit.check(*prepare(tiny_config("autodo")))
    assert line is not None and line.startswith("1 x cpu, 0.03 of 16.00 GB on each, ")
    assert line.endswith("1 steps a dispatch")


def test_a_step_that_does_not_fit_is_refused_with_the_number(monkeypatch, tmp_path):
    with_memory(monkeypatch, 16_000_000_000, 16_000_000_000)
    setup, state = prepare(tiny_config("autodo"))
    with pytest.raises(RunError, match=r"a task step needs 16.0 GB .* with 16.0 GB"):
        loop.run(setup, state, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_the_first_steps_take_the_programs_that_were_checked(
    monkeypatch, tmp_path, stream
):
    """So nothing is compiled twice, and the numbers are those of the run."""
    if stream:
        pytest.importorskip("grain")
    config = tiny_config("autodo")
    config.data.stream = stream
    setup, state = set_up.prepare(config)
    with_memory(monkeypatch, 0, 1 << 40)
    compiled = []
    monkeypatch.setattr(fit, "check", lambda *args: compiled.append(_check(*args)))
    jax.monitoring.register_event_duration_secs_listener(note := Names())
    loop.run(setup, state, tmp_path)
    jax.monitoring.unregister_event_duration_listener(note)
    assert compiled and note.names.count("jit(task_step)") == 1
    assert note.names.count("jit(hyper_step)") == 1
