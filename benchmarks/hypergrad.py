"""Times hypergradients against JAX and PyTorch peers: same point, same work, CPU.

    python benchmarks/hypergrad.py [--json=PATH] [--quick]

Every system computes the hypergradient of the same problem with the same number of
products, and each result is compared with a float64 reference. Systems take turns in
rounds, so that a slow minute of the machine slows all of them. A turn during which
other processes used more than a twentieth of the cores is repeated, and the JSON file
has that share for each turn. This rule reads the CPU clocks, never the timings.

Needs the extra `bench`; a peer that is missing or fails becomes a row that says so.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

# As a script this file would hide the PyPI package `hypergrad` from the imports.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import numpy as np

from benchmarks import hypergrad_peers as peers
from benchmarks import hypergrad_problems as problems

COUNTS = (5, 20, 100)
TOLERANCE = 1e-4
TURN_SECONDS = 1.0
MAX_FOREIGN = 0.05
PACKAGES = ("autodo_jax", "jax", "jaxlib", "numpy", "optax")
PEER_PACKAGES = ("jaxopt", "torch", "hypergrad", "betty-ml", "torchopt")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write all samples to")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each system")
    parser.add_argument(
        "--wait", type=float, default=1200, help="most seconds to wait for idle cores"
    )
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    warnings.simplefilter("ignore")  # Deprecations inside the peers.
    logging.disable(logging.WARNING)
    environment = describe()
    print(json.dumps(environment, indent=1))
    idle = IdleCores(0 if options.quick else options.wait)
    cases = []
    for problem in make_problems(options.quick):
        for method in peers.BOTH:
            for count in (5,) if options.quick else COUNTS:
                rounds = 1 if options.quick else options.rounds
                cases.append(run_case(problem, method, count, rounds, idle))
                print(table(cases[-1]), flush=True)
    lines = verdicts(cases)
    print("", *lines, sep="\n")
    if options.json:
        options.json.write_text(as_json(environment, cases, lines))


def as_json(environment: dict, cases: list[dict], lines: list[str]) -> str:
    """Returns all samples, in seconds, with a line for each row of a table."""
    parts = []
    for case in cases:
        rows = ",\n  ".join(json.dumps(row) for row in case["rows"])
        head = json.dumps({key: case[key] for key in case if key != "rows"})
        parts.append(f'{head[:-1]}, "rows": [\n  {rows}]}}')
    cases_text = ",\n ".join(parts)
    return (
        f'{{"environment": {json.dumps(environment, indent=1)},\n'
        f'"verdicts": {json.dumps(lines, indent=1)},\n'
        f'"cases": [\n {cases_text}]}}\n'
    )


def make_problems(quick: bool) -> list[problems.Problem]:
    """Returns the two problems, or small ones for the same code."""
    if quick:
        return [
            problems.softmax_regression((20, 5), batch=50),
            problems.mlp((20, 8, 8, 5), batch=50, penalty=0.3),
        ]
    return [problems.softmax_regression(), problems.mlp()]


def describe() -> dict:
    """Returns the environment, and gives PyTorch as many threads as JAX uses."""
    cores = _num_cores()
    versions = {"python": platform.python_version()}
    for name in (*PACKAGES, *PEER_PACKAGES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if versions["torch"] != "not installed":
        importlib.import_module("torch").set_num_threads(cores)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/hypergrad.py", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "cpu": _cpu_model(),
        "cores": cores,
        "torch_threads": cores,
        "precision": "float32",
        "versions": versions,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def run_case(problem, method: str, count: int, rounds: int, idle) -> dict:
    """Times all systems on one problem, method and number of products."""
    truth, residual = problems.reference(problem, method, count)
    rows, calls = [], {}
    for system in peers.SYSTEMS:
        row, call = prepare(system, problem, method, count, truth)
        rows.append(row)
        if call:
            calls[system.name] = call
    for _ in range(rounds):
        for row in rows:
            if row["system"] in calls:
                row["turns"] += take_turns(calls[row["system"]], idle)
    for row in rows:
        summarize(row)
    return {
        "problem": problem.name,
        "num_params": problem.size,
        "method": method,
        "count": count,
        "residual": residual,
        "rows": rows,
    }


def prepare(system, problem, method: str, count: int, truth):
    """Builds and compiles one system and compares its result with the reference."""
    row = {"system": system.name, "family": system.family, "turns": []}
    if method not in system.methods:
        return row | {"note": f"has no {method} solver"}, None
    start = time.perf_counter()
    try:
        call = system.build(problem, method, count)
        leaves = call()
    except Exception as error:  # An error of any kind must not stop the other peers.
        reason = (str(error).splitlines() or [""])[0][:100]
        return row | {"note": f"unavailable: {type(error).__name__}: {reason}"}, None
    row["first_call_seconds"] = time.perf_counter() - start
    flat = peers.flatten(leaves)
    row["error"] = float(np.linalg.norm(flat - truth) / np.linalg.norm(truth))
    row["agrees"] = row["error"] <= TOLERANCE
    if not row["agrees"]:
        row["note"] = "WRONG: " + system.known_wrong.get(
            method, "differs for an unknown reason"
        )
    return row, call


def take_turns(call, idle: "IdleCores", attempts: int = 4) -> list[dict]:
    """Takes turns of one system until one is undisturbed, at most `attempts`."""
    turns: list[dict] = []
    while len(turns) < attempts:
        idle.wait()
        call()  # Threads of the previous system may still spin.
        begin, own, busy = time.perf_counter(), _own_cpu(), _busy_cpu()
        seconds: list[float] = []
        while not seconds or sum(seconds) < TURN_SECONDS:
            start = time.perf_counter()
            call()
            seconds.append(round(time.perf_counter() - start, 6))
        available = (time.perf_counter() - begin) * _num_cores()
        foreign = max(0.0, (_busy_cpu() - busy) - (_own_cpu() - own)) / available
        turns.append({"seconds": seconds, "foreign": round(foreign, 3)})
        if foreign <= MAX_FOREIGN or idle.seconds_left <= 0:
            break
    return turns


class IdleCores:
    """Waits for other processes to be idle, up to a number of seconds in all."""

    def __init__(self, seconds: float):
        self.seconds_left = seconds

    def wait(self) -> None:
        """Returns once the cores have been idle for a moment."""
        while self.seconds_left > 0:
            busy, start = _busy_cpu(), time.monotonic()
            time.sleep(0.2)
            if _busy_cpu() - busy <= 0.02:
                return
            self.seconds_left -= time.monotonic() - start


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _own_cpu() -> float:
    times = os.times()
    return times.user + times.system


def _busy_cpu() -> float:
    """Returns CPU seconds of all processes since the system started; 0 if unknown."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def summarize(row: dict) -> None:
    """Adds median and spread over undisturbed turns, or over all if there are none."""
    quiet = [turn for turn in row["turns"] if turn["foreign"] <= MAX_FOREIGN]
    samples = [s for turn in quiet or row["turns"] for s in turn["seconds"]]
    if samples:
        row["median"] = statistics.median(samples)
        row["fastest"], row["slowest"] = min(samples), max(samples)
        row["num_samples"], row["disturbed"] = len(samples), not quiet


def table(case: dict) -> str:
    """Returns the rows of a case; a ratio ours / peer below 1 means ours is faster."""
    head = (
        f"\n{case['problem']}, {case['num_params']:,} parameters, {case['method']}, "
        f"T = {case['count']} (relative residual {case['residual']:.1e})\n"
        f"{'system':<22}{'median ms':>10}{'min - max ms':>20}{'ours/peer':>11}"
        f"{'error':>9}  agrees"
    )
    ours = case["rows"][0].get("median")
    lines = [head]
    for row in case["rows"]:
        if "median" not in row:
            lines.append(f"{row['system']:<22}{'-':>10}  {row['note']}")
            continue
        spread = f"{1e3 * row['fastest']:.2f} - {1e3 * row['slowest']:.2f}"
        ratio = f"{ours / row['median']:.3f}" if ours else "-"
        verdict = "yes" if row["agrees"] else row["note"]
        lines.append(
            f"{row['system']:<22}{1e3 * row['median']:>10.2f}{spread:>20}{ratio:>11}"
            f"{row['error']:>9.0e}  {verdict}{' (disturbed)' * row['disturbed']}"
        )
    return "\n".join(lines)


def verdicts(cases: list[dict]) -> list[str]:
    """Returns a verdict on the two claims in each case; wrong results do not count."""
    lines = ["Claims (by medians):"]
    for case in cases:
        where = f"{case['problem']}, {case['method']}, T = {case['count']}: "
        rows = [row for row in case["rows"] if row.get("agrees") and "median" in row]
        ours = [row for row in rows if row["family"] == "ours"]
        if not ours:
            lines.append(f"{where}ours gave no valid result")
            continue
        for family, factor in (("jax", 1), ("torch", 2)):
            rivals = [row for row in rows if row["family"] == family]
            if not rivals or (family == "torch" and case["count"] < 20):
                continue
            fastest = min(rivals, key=lambda row: row["median"])
            speedup = fastest["median"] / ours[0]["median"]
            claim = "at least as fast as" if factor == 1 else "at least 2x faster than"
            holds = "holds" if speedup >= factor else "DOES NOT HOLD"
            lines.append(
                f"{where}{claim} {fastest['system']}: {holds} ({speedup:.2f}x)"
            )
    return lines


if __name__ == "__main__":
    main()
