"""Seconds and memory of a head on many features, beside cleanlab's CleanLearning.

    python benchmarks/embeddings_size.py --json=benchmarks/results/embeddings-size.json
        [--sizes=10000x1280x10,50000x1280x10]
        [--systems="autodo;autodo, second run;autodo, 9 steps unguarded;CleanLearning"]

Features are made up: Gaussian classes around random centres, float16, in a folder of
memory maps; 20 % of the train labels are redrawn, 1,000 points are clean, 2,000 are for
the test. Each system runs as a process of its own, from the files to the errors;
autodo_jax by its command, with the report. Unguarded, there are no folds of the clean
set and nine steps of Lambda, as many as the guard takes by default. CleanLearning has
scikit-learn's logistic regression on standardised features, five folds, and sees train
and clean points. On busy cores its threads wait in loops, which counts as CPU seconds:
pin all to one core (`taskset -c 0`) to compare these.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import common
import numpy as np

from autodo_jax.workdir import files

NOISE, NUM_CLEAN, NUM_TEST, BLOCK = 0.2, 1000, 2000, 10000
SEPARATION = 0.16  # of the centres, in deviations of a feature
FLAGS = {
    "autodo": (),
    "autodo, second run": (),  # Its programs are compiled.
    "autodo, 9 steps unguarded": ("--config.guard.folds=0", "--config.epochs=10"),
    "autodo, 2 epochs": ("--config.epochs=2",),
}

PEER = """
import sys, pathlib, numpy as np
from cleanlab.classification import CleanLearning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
folder = pathlib.Path(sys.argv[1])
x, y, cx, cy, tx, ty = (
    np.load(folder / f"{part}_{kind}.npy")
    for part in ("train", "validation", "test") for kind in ("features", "labels")
)
scale = StandardScaler().fit(x.astype(np.float32))
x = scale.transform(np.concatenate([x, cx]).astype(np.float32))
model = CleanLearning(LogisticRegression(max_iter=200), cv_n_folds=5)
model.fit(x, np.concatenate([y, cy]))
found = model.predict(scale.transform(tx.astype(np.float32)))
print(100 * np.mean(found != ty))
"""


def make(folder: pathlib.Path, num_points: int, width: int, num_classes: int) -> None:
    """Writes the arrays, a block at a time."""
    rng = np.random.default_rng(0)
    centers = SEPARATION * rng.normal(size=(num_classes, width)).astype(np.float32)
    sizes = {"train": num_points, "validation": NUM_CLEAN, "test": NUM_TEST}
    for part, size in sizes.items():
        labels = rng.permutation(np.arange(size) % num_classes).astype(np.int32)
        features = np.lib.format.open_memmap(
            folder / f"{part}_features.npy", "w+", np.float16, (size, width)
        )
        for start in range(0, size, BLOCK):
            chosen = labels[start : start + BLOCK]
            noise = rng.standard_normal((len(chosen), width), np.float32)
            features[start : start + BLOCK] = centers[chosen] + noise
        features.flush()
        if part == "train":
            flipped = rng.permutation(size)[: round(NOISE * size)]
            labels[flipped] = rng.integers(0, num_classes, len(flipped))
        np.save(folder / f"{part}_labels.npy", labels)


def measure(system: str, folder: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns seconds, CPU seconds, GB at most and the error of a system."""
    command = [sys.executable, "-c", PEER, str(folder)]
    if system in FLAGS:
        command = [
            *(sys.executable, "-m", "autodo_jax.main"),
            "--config=configs/embeddings.py",
            f"--config.data.data_dir={folder}",
            f"--workdir={workdir}",
            *FLAGS[system],
        ]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        output.seek(0)
        printed = output.read()
    if status:
        raise SystemExit(f"{system} ended with status {status}")
    found = {
        "seconds": round(time.monotonic() - start, 1),
        "CPU seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "GB": round(usage.ru_maxrss / 1e6, 2),
    }
    if system not in FLAGS:
        return found | {"error": float(printed)}
    lines = (workdir / files.METRICS).read_text().splitlines()
    return found | {
        "error": json.loads((workdir / files.RESULT).read_text())["test_error"],
        "seconds of epochs": [round(json.loads(line)["seconds"], 1) for line in lines],
    }


def main() -> None:
    """Prints a line for each size and system."""
    parser = common.parser(__doc__)
    parser.add_argument("--sizes", default="10000x1280x10,20000x1280x10,50000x1280x10")
    parser.add_argument("--systems", default="autodo;autodo, second run;CleanLearning")
    arguments = parser.parse_args()
    runs = common.runs_of(arguments.json)
    for size in arguments.sizes.split(","):
        systems = arguments.systems.split(";")
        missing = [system for system in systems if system not in runs.get(size, {})]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            make(folder, *map(int, size.split("x")))
            for system in missing:
                workdir = folder / "run" / system
                found = measure(system, folder, workdir)
                runs.setdefault(size, {})[system] = found
                common.write(arguments.json, runs=runs)
                print(size, system, found, flush=True)


if __name__ == "__main__":
    main()
