"""Cost of checkpoints in a run of the digits, and time to continue a stopped run.

    python benchmarks/checkpoint.py [--json=PATH] [--repeats=3]

Whole commands, `python -m autodo_jax.main --config=configs/digits.py`, take turns with
the default cadence and without saving. The seconds spent in saving are measured too,
since whole runs differ by more than that. Then a run is stopped by SIGTERM halfway and
started again; the time is from this command to the end of its first step.
"""

import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import common

ROOT = pathlib.Path(__file__).parents[1]
NEVER_SAVES = """
from autodo_jax.train.checkpoint_schedule import CheckpointSchedule
CheckpointSchedule.save = lambda *_, **__: None
"""
TIMES_SAVING = """
import time
from autodo_jax.train.checkpoint_schedule import CheckpointSchedule
save, leave = CheckpointSchedule.save, CheckpointSchedule.__exit__
spent = 0.0
def timed(function):
    def call(*args, **kwargs):
        global spent
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent += time.perf_counter() - start
            print("saving", spent, flush=True)
    return call
CheckpointSchedule.save, CheckpointSchedule.__exit__ = timed(save), timed(leave)
"""


def start(folder: str, before: str = "") -> subprocess.Popen:
    """Starts a run of the digits whose process executes `before` first."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", before + common.MAIN),
            *("--config=configs/digits.py", f"--workdir={folder}"),
            "--nocompilation_cache",  # No run may profit from an earlier one.
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def seconds_of_run(before: str) -> tuple[float, float]:
    """Runs the digits from start to end; returns seconds in all, and in saving."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = start(folder, before)
        output, _ = process.communicate()
        elapsed = time.perf_counter() - began
        assert process.returncode == 0
        saving = [line.split()[1] for line in output.splitlines() if "saving" in line]
        return elapsed, float((saving or ["0"])[-1])


def seconds_to_go_on() -> float:
    """Stops a run halfway; returns seconds from its next command to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        process = start(folder)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 60/"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        began = time.perf_counter()
        process = start(folder, common.SAYS_ITS_FIRST_STEP)
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(line.startswith("continues from the checkpoint") for line in lines)
        assert any(line == "stepped\n" for line in lines)
        elapsed = time.perf_counter() - began
        process.kill()
        process.communicate()
        return elapsed


def main() -> None:
    """Prints both and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    saved, saving, unsaved = [], [], []
    for _ in range(arguments.repeats):
        elapsed, in_saving = seconds_of_run(TIMES_SAVING)
        saved.append(elapsed)
        saving.append(in_saving)
        unsaved.append(seconds_of_run(NEVER_SAVES)[0])
    resumed = [seconds_to_go_on() for _ in range(arguments.repeats)]
    pairs = zip(saved, unsaved, strict=True)
    cost = [100 * (a / b - 1) for a, b in pairs]
    print(f"with checkpoints {statistics.median(saved):.1f} s, without ", end="")
    print(f"{statistics.median(unsaved):.1f} s; cost {statistics.median(cost):.1f} %")
    share = [100 * part / whole for part, whole in zip(saving, saved, strict=True)]
    print(f"saving itself took {statistics.median(share):.1f} %")
    print(f"first step {statistics.median(resumed):.1f} s after the second command")
    seconds = {
        "saved": saved,
        "of which saving": saving,
        "unsaved": unsaved,
        "to resume": resumed,
    }
    common.write(arguments.json, seconds=seconds)


if __name__ == "__main__":
    main()
