"""The tables of docs/scale.md from compiled programs, and a roofline on paper.

    python -m benchmarks.roofline

Fills the page from `benchmarks/results/aot.json` and, of the compiler's default level,
`aot-default.json` (`benchmarks/aot.py`). A roofline
divides what a program does on one chip by what the chip is said to do in a second: the
longest of three times bounds the step, if they overlap in full. Nothing is measured.
"""

import json
from typing import Any, NamedTuple

from benchmarks import performance

PAGE = performance.ROOT / "docs" / "scale.md"
Row = dict[str, Any]


class Peak(NamedTuple):
    """Published peaks of a chip."""

    flops: float  # a second, in bfloat16
    memory: float  # bytes a second
    links: float  # bytes a second, of all its links together, one way
    float32: float = 1.0  # share of `flops`: TPUs multiply in bfloat16, GPUs in TF32


PEAKS = {
    "v4": Peak(275e12, 1228e9, 300e9),
    "v5e": Peak(197e12, 819e9, 200e9),
    "v5p": Peak(459e12, 2765e9, 600e9),
    "v6e": Peak(918e12, 1640e9, 448e9),
    "h100": Peak(989e12, 3350e9, 450e9, float32=0.5),
    "a100": Peak(312e12, 2039e9, 300e9, float32=0.5),
}


class Times(NamedTuple):
    """Seconds of a step on one chip, if nothing else held it up."""

    compute: float
    memory: float
    exchange: float

    @property
    def bound(self) -> str:
        """What takes longest."""
        return self._fields[self.index(max(self))]

    @property
    def share_of_peak(self) -> float:
        """The most of the chip's FLOP/s that a step can reach."""
        return self.compute / max(self)


def roofline(row: Row, peak: Peak) -> Times:
    """Returns the times of a program that `benchmarks.aot` compiled.

    An all-reduce among n chips sends and receives 2 (n - 1) / n of its bytes.
    """
    chips = row["chips"]
    passes = 2 * (chips - 1) / chips
    exchanged = sum(
        nbytes * (passes if kind == "all-reduce" else passes / 2)
        for kind, (_, nbytes) in row["collectives"].items()
    )
    flops = peak.flops * (peak.float32 if row["dtype"] == "float32" else 1)
    return Times(
        row["flops"] / flops,
        row["moved_bytes"] / peak.memory,
        exchanged / peak.links,
    )


def chip_of(topology: str) -> str:
    """Returns "v5e" of "v5e:2x4", "h100" of "h100x8"."""
    kind, _, _ = topology.partition(":")
    return kind if kind in PEAKS else kind.partition("x")[0]


def programs_table(rows: list[Row]) -> str:
    """Returns memory, work, exchange and compile time of each program."""
    head = ["program", "GB a chip", "TFLOP", "exchanged MB", "formula", "compile s"]
    table = []
    for row in rows:
        name = _name(row)
        if "error" in row:
            table.append([name, row["error"].replace("|", "/"), *[""] * 4])
            continue
        exchanged = sum(nbytes for _, nbytes in row["collectives"].values())
        table.append(
            [
                name,
                f"{row['bytes'] / 1e9:.2f}",
                "-" if row["flops"] is None else f"{row['flops'] / 1e12:.3f}",
                f"{exchanged / 1e6:.2f}",
                f"{row['expected_exchange'] / 1e6:.2f}" if row["chips"] > 1 else "-",
                f"{row['compile_s']:.0f}",
            ]
        )
    return performance.table(head, table)


def roofline_table(rows: list[Row]) -> str:
    """Returns what bounds each step on the chips it was compiled for."""
    head = ["program", "compute ms", "memory ms", "exchange ms", "bound", "of the peak"]
    table = []
    for row in rows:
        is_shown = "error" not in row and row["flops"] is not None
        if not is_shown or row["steps_per_dispatch"] > 1:
            continue
        times = roofline(row, PEAKS[chip_of(row["topology"])])
        table.append(
            [
                _name(row),
                *(f"{1e3 * seconds:.2f}" for seconds in times),
                times.bound,
                f"{100 * times.share_of_peak:.0f} %",
            ]
        )
    return performance.table(head, table)


def with_flops(rows: list[Row]) -> list[Row]:
    """Returns the rows, those of GPUs with the FLOPs that TPUs need for the same step.

    The compiler for GPUs does not tell how many there are. They stay None where there
    is no such step for TPUs.
    """
    totals: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if row.get("flops") is not None:
            totals.setdefault(_work(row), row["flops"] * row["chips"])
    return [
        row | {"flops": totals[_work(row)] / row["chips"]}
        if "error" not in row and row["flops"] is None and _work(row) in totals
        else row
        for row in rows
    ]


def _work(row: Row) -> tuple[Any, ...]:
    """Returns what rows of the same work have in common; dtypes do not matter much."""
    return tuple(row[k] for k in ("config", "step", "steps_per_dispatch", "batch"))


def _name(row: Row) -> str:
    several = row["steps_per_dispatch"]
    dispatch = f" x {several}" if several > 1 else ""
    return f"{row['config']} {row['step']}{dispatch}, {row['topology']}, {row['dtype']}"


def tables() -> dict[str, Any]:
    """Returns the tables of the page, by name."""
    rows, source = _read("aot.json")
    default_rows, default_source = _read("aot-default.json")
    return {
        "programs": lambda: programs_table(rows) + source,
        "default": lambda: programs_table(default_rows) + default_source,
        "roofline": lambda: roofline_table(rows),
    }


def _read(name: str) -> tuple[list[Row], str]:
    """Returns the rows of a file of results, and the line that says whence they are."""
    record = json.loads((performance.RESULTS / name).read_text())
    rows = sorted(with_flops(record["rows"]), key=_name)
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    level = rows[0]["level"]
    flag = "" if level == "O0" else f" --level={level}"
    level = "the default level" if level == "UNKNOWN" else f"level {level}"
    return rows, f"\n\n`python -m benchmarks.aot{flag}`, {versions}, {level}."


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(performance.filled(PAGE.read_text(), tables()))


if __name__ == "__main__":
    main()
