"""Fills the tables of docs/performance.md from benchmarks/results.

    python benchmarks/performance.py

Each table is written between `<!-- NAME -->` and `<!-- end -->`; the text around it
stays. Milliseconds are medians, followed by +- half the range between the quartiles.
"""

import json
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(filled(PAGE.read_text()))


def filled(text: str, tables: Mapping[str, Callable[[], str]] | None = None) -> str:
    """Returns a page with tables of the current results, by name; None: `TABLES`."""

    def fill(match: re.Match) -> str:
        name = match[1]
        return f"<!-- {name} -->\n{(tables or TABLES)[name]()}\n<!-- end -->"

    return re.sub(r"<!-- (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def augmentation() -> str:
    """Returns milliseconds of the warps, and their ratios to ours."""
    record = _load("augment-cpu")
    rows = []
    for result in record["results"]:
        shape = f"{result['batch']} x {result['size']} x {result['size']} x 3"
        for part, times in result["milliseconds"].items():
            ours = statistics.median(times["autodo_jax"])
            rows.append([f"{shape}, {part}"])
            for name, samples in times.items():
                times_ours = statistics.median(samples) / ours
                text = _spread(samples)
                rows[-1].append(
                    text if name == "autodo_jax" else f"{text} ({times_ours:.1f} x)"
                )
    names = record["results"][0]["milliseconds"]["forward"]
    return table(["batch, pass", *names], rows) + _source(record)


def steps() -> str:
    """Returns times of the task and hypergradient step, ours and PyTorch's."""
    record = _load("steps-cpu")
    peak = record["peaks"]["GFLOP/s"]
    rows = []
    for result in record["results"]:
        times, flops = result["milliseconds"], result["flops"]
        median = {name: statistics.median(found) for name, found in times.items()}
        ours, theirs = (
            median[f"{who} hyper"] / median[f"{who} task"] for who in ("ours", "torch")
        )
        rows.append(
            [
                f"WRN-{result['depth']}-{result['width']} `{result['method']}`",
                *(_spread(found, 0) for found in times.values()),
                f"{flops['hyper'] / flops['task']:.3f}",
                f"{ours:.2f}",
                f"{theirs:.2f}",
                f"{theirs / ours:.2f} x",
                *(
                    f"{100 * flops[step] / median[f'ours {step}'] / 1e6 / peak:.0f} %"
                    for step in ("task", "hyper")
                ),
            ]
        )
    names = [*record["results"][0]["milliseconds"]]
    head = ["network, method", *names, "FLOPs hyper / task", "time, ours"]
    head += ["time, torch", "torch / ours", "task, of the peak", "hyper, of the peak"]
    note = (
        "\n\nThe peak is what a product of 2048 x 2048 matrices in float32 reaches in "
        f"the same run, {peak:.0f} GFLOP/s; a copy moves "
        f"{record['peaks']['GB/s']:.0f} GB/s."
    )
    return table(head, rows) + note + _source(record)


def digits() -> str:
    """Returns times of whole runs of the digits."""
    record = _load("digits-cpu")
    names = {
        "cold": "`autodo`, nothing compiled before",
        "warm": "`autodo`, run once before",
        "baseline": "`baseline`",
        "half": "`autodo`, E = 60 of 120 epochs",
    }
    rows = [
        [
            names[kind],
            *(
                _spread([found[name] for found in runs], 1)
                for name in ("first step", "whole")
            ),
            _spread([training_seconds(found) for found in runs], 1),
        ]
        for kind, runs in record["runs"].items()
    ]
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios_to_baseline(record["runs"]))
    return (
        table(["run", "s to first step", "s in all", "s of epochs"], rows)
        + f"\n\nEpochs of `autodo` with E = 60 over those of `baseline`: {listed}."
        + _source(record)
    )


def dispatch() -> str:
    """Returns milliseconds of a step, by the number of steps a dispatch."""
    record = _load("dispatch-cpu")
    rows = [
        [f"`{found['model']}`, {found['phase']}", *map(_spread, times.values())]
        for found in record["results"]
        for times in [found["milliseconds"]]
    ]
    numbers = record["results"][0]["milliseconds"]
    head = ["network, step", *(f"{number} a dispatch" for number in numbers)]
    return table(head, rows) + _source(record)


def growth() -> str:
    """Returns milliseconds of a hypergradient step along each axis."""
    record = _load("growth-cpu")
    rows = []
    for axis, times in record["milliseconds"].items():
        listed = "; ".join(f"{v}: {_spread(found)}" for v, found in times.items())
        first, *_, last = (statistics.median(found) for found in times.values())
        rows.append([axis, listed, f"{last / first:.2f} x"])
    return table(["axis", "ms a step", "last / first"], rows) + _source(record)


def training_seconds(measured: dict) -> float:
    """Returns seconds of a run's epochs; those that compile count as the median."""
    return sum(
        len(found) * statistics.median(found)
        for found in (measured["plain epochs"], measured["outer epochs"])
        if found
    )


def ratios_to_baseline(runs: dict[str, list[dict]]) -> list[float]:
    """Returns time of `autodo` with E at half the epochs over that of `baseline`."""
    return [
        training_seconds(half) / training_seconds(base)
        for half, base in zip(runs["half"], runs["baseline"], strict=True)
    ]


TABLES: dict[str, Callable[[], str]] = {
    "augmentation": augmentation,
    "steps": steps,
    "digits": digits,
    "dispatch": dispatch,
    "growth": growth,
}


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _spread(samples: Sequence[float], digits: int = 2) -> str:
    middle = statistics.median(samples)
    if len(samples) < 4:
        half = (max(samples) - min(samples)) / 2
    else:
        first, _, last = statistics.quantiles(samples, n=4)
        half = (last - first) / 2
    return f"{middle:.{digits}f} ± {half:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _source(record: dict[str, Any]) -> str:
    peers = ", ".join(f"{k} {v}" for k, v in record["peers"].items())
    return (
        f"\n\n`{record['command']}`, {record['date']}, {record['cores']} cores "
        f"({record['processor']}), jax {record['jax']}, {peers}."
    )


if __name__ == "__main__":
    main()
