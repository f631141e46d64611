"""Thousands of epochs leave a process as it was after the first hundreds."""

import json
import pathlib
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_what_a_process_holds_stays_flat(tmp_path):
    path = tmp_path / "samples.json"
    program = ROOT / "benchmarks/long_run.py"
    command = [sys.executable, str(program), "--epochs=3000", f"--json={path}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    samples = json.loads(path.read_text())["samples"]
    assert samples[-1]["epoch"] > 2900 and len(samples) >= 100
    # Compilation and the first checkpoints take what they take.
    samples = [sample for sample in samples if sample["epoch"] > 600]
    for name, most in (("megabytes", 30), ("files", 2), ("threads", 1)):
        held = [sample[name] for sample in samples]
        assert max(held) - held[0] <= most, name
    times = [sample["ms"] for sample in samples]
    tenth = len(times) // 10
    early, late = map(statistics.median, (times[: 3 * tenth], times[-3 * tenth :]))
    assert late < 2 * early
