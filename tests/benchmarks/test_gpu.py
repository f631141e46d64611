"""The script for a machine with a GPU, on CPUs with tiny sizes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def start(folder, path):
    environment = {**os.environ, "DRY_RUN": "1", "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "benchmarks/gpu.sh", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_points_are_measured_in_order_kept_and_skipped(tmp_path):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    folder = tmp_path / "results"
    first = start(folder, tmp_path)
    names = ["suite", "digits", "augment", "steps", "scale"]
    said = [line.partition(":")[0] for line in first.stdout.splitlines()]
    assert said == names, first.stdout + first.stderr
    works = set(names)
    if importlib.util.find_spec("kornia") is None:
        works -= {"augment", "steps"}  # They compare with PyTorch.
    assert (first.returncode == 0) == (works == set(names))
    for name in ["machine", *works]:
        assert json.loads((folder / f"{name}.json").read_text())
    again = start(folder, tmp_path)
    for name in works:
        assert f"{name}: done before" in again.stdout


def test_no_folder_is_a_wrong_call(tmp_path):
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("usage: benchmarks/gpu.sh")
