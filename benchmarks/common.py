"""Parts that the benchmarks share: turns, random data, and the record of results."""

import argparse
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits

# The command line as a program of `python -c`, and code to put before it, which prints
# "stepped" when the first step has ended.
MAIN = "import sys; from autodo_jax import main; sys.exit(main.main(sys.argv))"
SAYS_ITS_FIRST_STEP = """
from autodo_jax.train.run_log import RunLog
end_steps = RunLog.end_steps
def first(self, phase, values):
    print("stepped", flush=True)
    RunLog.end_steps = end_steps
    end_steps(self, phase, values)
RunLog.end_steps = first
"""
_PEERS = ("torch", "kornia", "dm-pix")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the flag that all benchmarks have."""
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--json", help="file to write the samples to")
    return arguments


def runs_of(path: str | None) -> dict[str, Any]:
    """Returns the `runs` that `write` left in a file; none without one."""
    if not path or not pathlib.Path(path).exists():
        return {}
    return json.loads(pathlib.Path(path).read_text())["runs"]


def write(path: str | None, **results: Any) -> None:
    """Writes the results, the machine and the versions; nothing without a path."""
    if not path:
        return
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": num_cores(),
        "jax": jax.__version__,
        "peers": {name: metadata.version(name) for name in _PEERS if _has(name)},
        **results,
    }
    new = pathlib.Path(f"{path}.new")  # Those of before are whole until then.
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.replace(path)


def in_turns(
    programs: Mapping[str, Callable[[], Any]], repeats: int, *, warmup: int = 2
) -> dict[str, list[float]]:
    """Returns milliseconds of programs that take turns, so that a slow spell slows all.

    Args:
      programs: each returns when its work is done, or JAX arrays that are waited for.
      repeats: turns that are kept.
      warmup: turns before them, which compile and touch new memory.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(-warmup, repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def peaks(repeats: int = 9) -> dict[str, float]:
    """Returns GFLOP/s of a float32 product and GB/s of a copy on the device."""
    size, length = 2048, 2**26
    matrix, vector = jnp.ones((size, size)), jnp.ones(length)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    times = in_turns(
        {"product": lambda: product(matrix), "copy": lambda: copy(vector)}, repeats
    )
    product_ms, copy_ms = (min(times[name]) for name in ("product", "copy"))
    return {
        "GFLOP/s": 2 * size**3 / product_ms / 1e6,
        "GB/s": 2 * 4 * length / copy_ms / 1e6,  # read and written
    }


def random_parts(
    num_points: int, size: int, *, channels: int = 3, num_classes: int = 10
) -> SourceSplits:
    """Returns random pixels and labels; at most 1,000 points to validate and test."""
    rng = np.random.default_rng(0)

    def dataset(num_points: int) -> Dataset:
        shape = (num_points, size, size, channels)
        return Dataset(
            images=rng.integers(0, 256, shape, dtype=np.uint8),
            labels=(np.arange(num_points) % num_classes).astype(np.int32),
            ids=np.arange(num_points).astype(str),
            class_names=tuple(map(str, range(num_classes))),
        )

    evaluated = max(min(num_points, 1000), num_classes)
    return SourceSplits(dataset(num_points), dataset(evaluated), dataset(evaluated))


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
