"""How a run is asked to stop, and what is said where it hangs or cannot start."""

import os
import re
import signal
import time

import pytest

from autodo_jax import processes
from autodo_jax.errors import LostPeerError, UsageError
from autodo_jax.processes import Cluster


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_once_and_handlers_come_back(signum):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with processes.stop_requests() as requested:
        assert requested(1) == 0
        os.kill(os.getpid(), signum)
        assert requested(2) == signum
        os.kill(os.getpid(), signum)  # passed on twice
        assert requested(3) == signum
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert after == before


def test_a_signal_that_comes_again_is_not_held_back(monkeypatch):
    monkeypatch.setattr(processes, "_SAME_SIGNAL", -1.0)
    with (
        pytest.raises(KeyboardInterrupt),
        processes.stop_requests(),
    ):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_the_watchdog_speaks_up_only_without_steps(capfd):
    with processes.Watchdog(0.2) as watchdog:
        for _ in range(8):
            time.sleep(0.05)
            watchdog.step_ended()
        assert capfd.readouterr().err == ""
        time.sleep(0.4)
    error = capfd.readouterr().err
    assert re.search(r"process 0: no step has ended for \d+ s", error)
    assert error.count("\n") <= 2


def test_a_watchdog_of_no_time_never_speaks(capfd):
    with processes.Watchdog(0):
        time.sleep(0.05)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Cluster(coordinator="localhost:1"), "need --coordinator=HOST:PORT"),
        (Cluster(False, "localhost:1", 2), "need --coordinator=HOST:PORT"),
        (Cluster(False, "localhost:1", 2, 2), "--process_id is 2, expected 0 to 1"),
    ],
)
def test_processes_that_are_not_told_enough_do_not_start(cluster, message):
    with pytest.raises(UsageError, match=message):
        processes.start(cluster)


def test_no_cluster_is_a_run_of_one_process():
    processes.start(Cluster())
    assert processes.is_first()
    assert processes.broadcast_from_first(7) == 7
    processes.wait_for_all("nobody")
    with pytest.raises(ValueError), processes.lost_peer_errors():
        raise ValueError("Gloo all-reduce failed")


def test_errors_of_the_communication_tell_of_a_lost_process(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    with (
        pytest.raises(LostPeerError, match="process 0 lost another process"),
        processes.lost_peer_errors(),
    ):
        raise OSError("checkpoints fail: UNKNOWN: Gloo all-reduce failed")
    with pytest.raises(OSError, match="disk"), processes.lost_peer_errors():
        raise OSError("no space left on the disk")
