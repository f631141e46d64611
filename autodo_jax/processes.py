"""The processes of a run on several hosts: how they start, stop and fail.

JAX's own distributed runtime does the work. All processes run the same program; the
first writes files and reports, and a folder that all of them see holds the checkpoints.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import distributed  # JAX has no other way to the store of a run.
from jax.experimental import multihost_utils

from autodo_jax._typing import PyTree
from autodo_jax.errors import LostPeerError, RunError, UsageError

# Seconds. A process that has died is noticed after the heartbeat's.
_START_TIMEOUT, _HEARTBEAT_TIMEOUT = 300, 60
# Seconds between two signs of life of a process, and without one until it is named.
_BEAT, _SILENCE = 5, 30
_SAME_SIGNAL = 1.0  # seconds within which signals are one


class Cluster(NamedTuple):
    """The way to the other processes; empty for a run of one process."""

    from_scheduler: bool = (
        False  # SLURM, Open MPI, TPU pods or Kubernetes know the rest
    )
    coordinator: str | None = None  # HOST:PORT of process 0
    num_processes: int | None = None
    process_id: int | None = None


def start(cluster: Cluster) -> None:
    """Joins the other processes; nothing to do for a run of one.

    Raises:
      UsageError: options that are incomplete, an environment of no scheduler, or
        processes that cannot be reached.
    """
    if cluster == Cluster():
        return
    explicit = cluster[1:]
    if not cluster.from_scheduler and None in explicit:
        raise UsageError(
            "several processes need --coordinator=HOST:PORT, --num_processes and "
            "--process_id together, or --distributed under a scheduler"
        )
    number, count = cluster.process_id, cluster.num_processes
    if number is not None and count is not None and not 0 <= number < count:
        raise UsageError(f"--process_id is {number}, expected 0 to {count - 1}")
    try:
        jax.distributed.initialize(
            *explicit,
            # Explicit options are not mixed with those of a scheduler around them.
            cluster_detection_method=None if cluster.from_scheduler else "deactivate",
            initialization_timeout=_START_TIMEOUT,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"no scheduler was recognised ({reason})",
            "pass --coordinator=HOST:PORT, --num_processes and --process_id",
        ) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the processes cannot start together: {reason}") from error


def agree(name: str, values: Mapping[str, Any]) -> None:
    """Returns when all processes have the same values; nothing to do for one.

    No device is used for it: programs that do not fit together wait for ever.

    Args:
      name: of the place, each of its own.
      values: what has to be the same, as JSON holds it; their names are for messages.

    Raises:
      RunError: in all processes, names the values that differ.
      LostPeerError: a process does not answer.
    """
    state = distributed.global_state
    if state.client is None:
        return
    key, timeout = f"autodo_jax/{name}", 1000 * _START_TIMEOUT
    given = json.loads(json.dumps(values))
    try:
        state.client.key_value_set(f"{key}/{state.process_id}", json.dumps(given))
        if state.process_id == 0:
            verdict = ""
            for number in range(1, state.num_processes):
                text = state.client.blocking_key_value_get(f"{key}/{number}", timeout)
                verdict = verdict or _difference(given, json.loads(text), number)
            state.client.key_value_set(f"{key}/verdict", f"={verdict}")
        verdict = state.client.blocking_key_value_get(f"{key}/verdict", timeout)[1:]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise LostPeerError(
            f"the processes cannot compare their {name} ({reason})", "repeat <again>"
        ) from error
    if verdict:
        raise RunError(verdict, "start all processes alike")


def _difference(first: Mapping, other: Mapping, number: int) -> str:
    differing = [
        f"{name} {str(other.get(name))[:60]} (process 0: {str(first.get(name))[:60]})"
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]
    more = f" and {len(differing) - 5} others" * (len(differing) > 5)
    listed = ", ".join(differing[:5])
    return f"process {number} has another {listed}{more}" if differing else ""


def are_several() -> bool:
    """True in a run of several processes, also before devices are looked for."""
    return distributed.global_state.client is not None


def is_first() -> bool:
    """True in the process that writes files and reports."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes have come here; each place has a `name` of its own."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_from_first(value: int) -> int:
    """Returns the value of the first process, in all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(value))


def fetch(tree: PyTree) -> PyTree:
    """Returns whole arrays on the host, also those spread over processes."""
    return jax.tree.map(
        lambda x: (
            jax.device_get(x)
            if x.is_fully_addressable or x.is_fully_replicated
            else multihost_utils.process_allgather(x, tiled=True)
        ),
        tree,
    )


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], int]]:
    """Context in which SIGTERM and SIGINT only ask a run to stop.

    Yields `requested(number)`, to be called in all processes equally often, with 1 and
    then one more each time; it returns the signal that asks to stop, the same
    everywhere, or 0. A further signal, a second later or more, ends the process at
    once.
    """
    if jax.process_count() > 1:
        # JAX handles SIGTERM then, and finds a step that all processes reach.
        yield (
            lambda number: (
                signal.SIGTERM
                if multihost_utils.reached_preemption_sync_point(number)
                else 0
            )
        )
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda number: 0  # Only the main thread may handle signals.
        return
    received: list[tuple[int, float]] = []
    former: dict[int, Any] = {}

    def restore(*_: Any) -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def handle(signum: int, _: Any) -> None:
        received.append((signum, time.monotonic()))
        # Schedulers and the scripts they run may both pass a signal on.
        if received[-1][1] - received[0][1] > _SAME_SIGNAL:
            restore()
            os.kill(os.getpid(), signum)

    for number in (signal.SIGTERM, signal.SIGINT):
        former[number] = signal.signal(number, handle)
    try:
        yield lambda number: received[0][0] if received else 0
    finally:
        restore()


class _Pulse:
    """Signs of life that the processes of a run give each other."""

    def __init__(self) -> None:
        self._state: Any = distributed.global_state
        self._seen: dict[int, tuple[str, float]] = {}  # process -> sign, when it came
        self._answered = time.monotonic()
        self.is_over = False
        if self._state.client is not None:
            threading.Thread(target=self._beat, daemon=True).start()

    def silent(self) -> int | None:
        """Returns a process that has not been heard of for too long; None without."""
        now = time.monotonic()
        if self._state.client is None or self.is_over:
            return None
        if now - self._answered > _SILENCE:  # The first process has the store.
            return 0
        quiet = (n for n, (_, at) in self._seen.items() if now - at > _SILENCE)
        return next(quiet, None)

    def _beat(self) -> None:
        number = 0
        while not self.is_over:
            before, number = time.monotonic(), number + 1
            key = f"autodo_jax/pulse/{self._state.process_id}"
            with contextlib.suppress(Exception):  # What is wrong is said elsewhere.
                client = self._state.client
                client.key_value_set(key, str(number), allow_overwrite=True)
                signs = client.key_value_dir_get("autodo_jax/pulse/")
                now = self._answered = time.monotonic()
                was_stopped = now - before > _SILENCE  # this process itself
                for name, sign in signs:
                    process = int(name.rpartition("/")[2])
                    if was_stopped or self._seen.get(process, ("", 0))[0] != sign:
                        self._seen[process] = sign, now
            time.sleep(_BEAT)


class Watchdog:
    """Context that reports on stderr when no step has ended for a while.

    It ends the process where another one of the run has not been heard of for half a
    minute, as one that is stopped: what waits for it would wait for ever.
    """

    def __init__(self, seconds: float):
        """Args: the seconds until it reports, and again; 0 for never."""
        self._seconds = seconds
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._pulse = _Pulse()
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        if self._seconds:
            self._pulse.is_over = True

    def step_ended(self) -> None:
        """Starts the time again; called after each step."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        reported = self._last
        while not self._done.wait(min(self._seconds / 4, _BEAT)):
            silent = self._pulse.silent()
            if silent is not None:
                print(
                    f"autodo_jax: process {jax.process_index()} lost another process "
                    f"of the run: it has not heard of process {silent} for {_SILENCE} "
                    "s; the same command continues from the last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                exit_without_peers(1)
            idle = time.monotonic() - max(self._last, reported)
            if idle >= self._seconds:
                reported = time.monotonic()
                print(
                    f"autodo_jax: process {jax.process_index()}: no step has ended for "
                    f"{reported - self._last:.0f} s; another process may hang or a "
                    "device be stuck",
                    file=sys.stderr,
                    flush=True,
                )


@contextlib.contextmanager
def lost_peer_errors() -> Iterator[None]:
    """Context in which errors of the communication become a LostPeerError.

    Whatever is under way, a step or a checkpoint, may notice it first.
    """
    try:
        yield
    except Exception as error:
        message = str(error).lower()
        from_peer = any(name in message for name in ("gloo", "nccl", "coordination"))
        if jax.process_count() == 1 or not from_peer:
            raise
        reason = " ".join(str(error).split())[:200]
        raise LostPeerError(
            f"process {jax.process_index()} lost another process of the run ({reason})",
            "<again> continues from the last checkpoint, with as many processes or "
            "others",
        ) from error


def exit_without_peers(status: int) -> NoReturn:
    """Ends this process without waiting for the others, which may be gone."""
    if distributed.global_state.process_id == 0:
        # With it ends the service that aborts the others: let them print first.
        time.sleep(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
