"""The steps of the configurations, compiled for TPUs and GPUs that are not there.

    python -m benchmarks.aot --json=benchmarks/results/aot.json --only=cifar10,v5e:2x4

Needs `pip install -e '.[aot]'`, for GPUs JAX's CUDA plugin as well. Each program is
compiled in a process of its own, since libtpu can end it, and written to the JSON when
it is done; a second call does what is missing. What does not compile has its error in
the row.
"""

import argparse
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ("cifar10", "svhn", "cifar100", "imagenet")
TOPOLOGIES = (
    "v5e:2x4",
    "v5e:2x2",
    "v5e:8x8",
    "v5e:16x16",
    "v5e:1x1",
    "v4:2x2x1",
    "v5p:2x2x1",
    "v6e:2x2",
)
GPUS = ("h100", "a100")
STEPS = (("task", 1), ("hyper", 1), ("evaluate", 1), ("task", 16), ("hyper", 16))
DTYPES = ("float32", "bfloat16")
Row = dict[str, Any]


def rows() -> list[Row]:
    """Returns all programs, the most telling first."""
    return [
        {
            "config": config,
            "topology": topology,
            "dtype": dtype,
            "step": step,
            "steps_per_dispatch": num_steps,
        }
        for step, num_steps in STEPS
        for topology in (*TOPOLOGIES, *GPUS)
        for config in CONFIGS
        for dtype in DTYPES
        # ImageNet is streamed, one step at a time.
        if not (config == "imagenet" and num_steps > 1)
    ]


def name_of(row: Row) -> str:
    """Returns what tells a row from others."""
    fields = ("config", "topology", "dtype", "step", "steps_per_dispatch")
    return " ".join(str(row[field]) for field in fields)


def measure(row: Row, level: str, method: str) -> Row:
    """Compiles a program in this process; returns the row with what was found."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    from autodo_jax import config as config_lib
    from benchmarks import compiled
    from benchmarks.abstract_run import DATA, AbstractRun

    jax.config.update("jax_optimization_level", level)
    path = ROOT / "configs" / f"{row['config']}.py"
    config = runpy.run_path(str(path))["get_config"](method)
    config.model.dtype = row["dtype"]
    config_lib.validate(config)
    mesh = compiled.mesh(row["topology"])
    run = AbstractRun(config, mesh, DATA[row["config"]])
    lowered = run.lower(row["step"], row["steps_per_dispatch"])
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    memory, cost = compiled.memory(program), program.cost_analysis() or {}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held -= memory.alias_size_in_bytes
    return {
        **row,
        "chips": mesh.size,
        "batch": config.batch_size,
        "method": method,
        "level": level,
        "bytes": held + memory.temp_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "flops": cost.get("flops"),
        "moved_bytes": compiled.moved(program),
        "collectives": compiled.collectives(program),
        "expected_exchange": run.expected_exchange(row["step"]),
        "largest": [a.shape for a in compiled.arrays(program)[:5]],
        "compile_s": round(seconds, 1),
    }


def in_a_process(row: Row, level: str, method: str, timeout: float) -> Row:
    """As `measure`, in a process of its own; an error is the row's."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.aot"]
    command += ["--one", json.dumps(row), "--level", level, "--method", method]
    failed = {**row, "level": level, "method": method}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {**failed, "error": f"not compiled within {timeout:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or line.startswith("F")]
    reason = (told or lines or ["no message"])[-1].strip()
    return {**failed, "error": f"status {done.returncode}: {reason[:300]}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", default="", help="words that a row's name must have")
    parser.add_argument("--level", default="O0", help="jax_optimization_level")
    parser.add_argument("--method", default="autodo")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a program")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="in all")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(json.loads(args.one), args.level, args.method)))
        return
    found: dict[str, Row] = {}
    if args.json and args.json.exists():
        rows_before = json.loads(args.json.read_text())["rows"]
        found = {name_of(row): row for row in rows_before}
    words, start = args.only.split(",") if args.only else [], time.monotonic()
    for row in rows():
        name = name_of(row)
        if name in found or not set(words) <= set(name.split()):
            continue
        if time.monotonic() - start > args.seconds:
            break
        found[name] = in_a_process(row, args.level, args.method, args.timeout)
        print(json.dumps(found[name]), flush=True)
        if args.json:
            write(args.json, list(found.values()))


def write(path: pathlib.Path, found: list[Row]) -> None:
    """Writes all rows, with the versions that compiled them."""
    import importlib.metadata
    import importlib.util

    versions = {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "libtpu")
        if importlib.util.find_spec(name)
    }
    text = json.dumps({"versions": versions, "rows": found}, indent=1)
    path.write_text(text + "\n")


if __name__ == "__main__":
    main()
