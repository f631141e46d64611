"""A run that is interrupted and continued has the numbers of one that is not."""

import contextlib
import shutil
import signal

import numpy as np
import pytest

from autodo_jax import errors, processes
from autodo_jax.errors import RunError
from autodo_jax.train.progress import EpochProgress
from tests.train.prepared import run, tiny_config

TIMES = {"seconds", "images_per_second", "data_wait"}


def config_of_two_epochs():
    config = tiny_config("autodo")
    config.checkpoint_every = 1
    return config


def stop_after(step, monkeypatch):
    """Lets the run be asked to stop once, after a step."""
    asked: list[int] = []

    @contextlib.contextmanager
    def stop_requests():
        def requested(done):
            if done == step and not asked:
                asked.append(done)
                return signal.SIGTERM
            return 0

        yield requested

    monkeypatch.setattr(processes, "stop_requests", stop_requests)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(config_of_two_epochs(), tmp_path_factory.mktemp("whole"))


def without_times(records):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


@pytest.mark.parametrize(
    "step",
    [7, 32, 40, 80],
    ids=["first epoch", "its end", "task steps", "hyper steps"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    uninterrupted, step, tmp_path, monkeypatch
):
    result, records, tables = uninterrupted
    stop_after(step, monkeypatch)
    with pytest.raises(errors.Interrupted, match=r"stopped by SIGTERM in epoch \d"):
        run(config_of_two_epochs(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    again, more_records, more_tables = run(config_of_two_epochs(), tmp_path)
    assert without_times(more_records) == without_times(records)
    assert without_times([again]) == without_times([result])
    for name, table in tables.items():
        np.testing.assert_array_equal(more_tables[name], table)


def test_several_steps_a_dispatch_are_the_same_run_interrupted_or_not(
    uninterrupted, tmp_path, monkeypatch
):
    _, records, tables = uninterrupted
    config = config_of_two_epochs()
    config.steps_per_dispatch = 16
    stop_after(3, monkeypatch)  # Half of the second epoch's task steps.
    with pytest.raises(errors.Interrupted, match="in epoch 2"):
        run(config, tmp_path)
    config.steps_per_dispatch = 8
    _, more_records, more_tables = run(config, tmp_path)
    pairs = zip(without_times(more_records), without_times(records), strict=True)
    for ours, expected in pairs:
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for name, table in tables.items():
        np.testing.assert_allclose(more_tables[name], table, rtol=1e-3, atol=1e-4)


def test_on_other_devices_it_goes_on_up_to_the_order_of_sums(
    uninterrupted, tmp_path, monkeypatch
):
    _, records, _ = uninterrupted
    stop_after(40, monkeypatch)
    with pytest.raises(errors.Interrupted):
        run(config_of_two_epochs(), tmp_path)
    config = config_of_two_epochs()
    config.num_devices = 4
    _, more, tables = run(config, tmp_path)
    for ours, theirs in zip(more, records, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    assert {len(table) for table in tables.values()} == {519}


def test_checkpoints_of_other_data_are_refused(tmp_path, monkeypatch):
    stop_after(7, monkeypatch)
    with pytest.raises(errors.Interrupted):
        run(config_of_two_epochs(), tmp_path)
    config = config_of_two_epochs()
    config.data.noise_ratio = 0.2
    with pytest.raises(RunError, match="not those of the checkpoints"):
        run(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    monkeypatch.undo()
    config.epochs, config.hyper.frozen = 1, True
    assert run(config, tmp_path)[0]["epochs"] == 1


def test_fewer_epochs_than_are_saved_are_refused(tmp_path):
    run(config_of_two_epochs(), tmp_path)
    (tmp_path / "result.json").unlink()
    config = config_of_two_epochs()
    config.epochs, config.hyper.start_epoch = 1, 0
    with pytest.raises(RunError, match=r"config\.epochs is 1, but 2 epochs"):
        run(config, tmp_path)


def test_where_no_checkpoint_is_whole_the_run_starts_again_and_says_so(
    uninterrupted, tmp_path, monkeypatch, capsys
):
    result, _, _ = uninterrupted
    stop_after(40, monkeypatch)
    with pytest.raises(errors.Interrupted):
        run(config_of_two_epochs(), tmp_path)
    for file in tmp_path.glob("checkpoints/*/sha256sums"):
        file.write_text("")
    again, _, _ = run(config_of_two_epochs(), tmp_path, EpochProgress(2))
    out = capsys.readouterr().out
    assert "is damaged (sha256sums is empty)" in out
    assert f"no whole checkpoint in {tmp_path / 'checkpoints'}: starts from" in out
    assert without_times([again]) == without_times([result])
