"""Time of whole runs of the digits, and the share of the outer loop in it.

    python benchmarks/digits.py [--json=PATH] [--repeats=3]

The command `python -m autodo_jax.main --config=configs/digits.py`, with 405 clean
points and without joined epochs, runs first with an empty cache of compiled programs,
then with the cache that this leaves: seconds to the end of the first step, and to the
end. Then `baseline` and `autodo` with E at half the
epochs take turns: seconds of their epochs. The first epoch with a kind of step
compiles it, so it counts as the median of those like it.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import common
from performance import ratios_to_baseline, training_seconds

from autodo_jax.workdir import files

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS = 120
PROTOCOL = ("--config.data.validation_size=405", "--config.task.joined_epochs=0")
PROGRAM = common.SAYS_ITS_FIRST_STEP + common.MAIN


def run(folder: pathlib.Path, cache: pathlib.Path, method: str, *flags: str) -> dict:
    """Runs a command; returns seconds to its first step, to its end, and by epoch."""
    began = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", PROGRAM, f"--config=configs/digits.py:{method}"),
            *(f"--workdir={folder}", *PROTOCOL, *flags),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = 0.0
    for line in process.stdout:
        if line == "stepped\n":
            first = time.perf_counter() - began
    assert process.wait() == 0
    whole = time.perf_counter() - began
    lines = (folder / files.METRICS).read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    return {
        "first step": first,
        "whole": whole,
        "plain epochs": [e["seconds"] for e in epochs if "outer_loss" not in e],
        "outer epochs": [e["seconds"] for e in epochs if "outer_loss" in e],
    }


def main() -> None:
    """Prints both and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    half = f"--config.hyper.start_epoch={EPOCHS // 2}"
    runs: dict[str, list] = {"cold": [], "warm": [], "baseline": [], "half": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for i in range(arguments.repeats):
            cache = folder / f"cache-{i}"
            for kind, method, flags in (
                ("cold", "autodo", ()),
                ("warm", "autodo", ()),
                ("baseline", "baseline", ()),
                ("half", "autodo", (half,)),
            ):
                found = run(folder / f"{kind}-{i}", cache, method, *flags)
                runs[kind].append(found)
                print(
                    f"{kind}: first step {found['first step']:.1f} s, whole run "
                    f"{found['whole']:.1f} s, training {training_seconds(found):.1f} s",
                    flush=True,
                )
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios_to_baseline(runs))
    print(f"autodo with E at half the epochs over baseline: {listed}")
    common.write(arguments.json, epochs=EPOCHS, runs=runs)


if __name__ == "__main__":
    main()
