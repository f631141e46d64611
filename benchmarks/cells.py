"""Compares the methods and their honest rivals, by clean points and distortion.

    python -m benchmarks.cells --json=benchmarks/results/cells.json
        [--seeds=0,1,2,3,4] [--only=TEXT] [--photos=PATH]

A cell is a number of clean points, a class imbalance IR and a share NR of redrawn
labels (pair: of labels moved on by one class) of the digits of configs/digits.py, or,
with PATH as configs/cifar10_jpeg.py takes it, of photographs. Rows:

    baseline, uniform_augment       the train set alone; the latter is its best policy
    clean_only, joined              the rivals, which see the clean set too
    autodo_s, autodo                learned, after their controls with Lambda frozen

All of them take the same number of steps of the same size. `clean_only` knows nothing
of the train labels, so it runs once for all NR of a seed. Runs that the file has are
not repeated; `--only=` takes the cells whose name has the text. The first cells get
their first three seeds first.
"""

import dataclasses
import gc
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import tabulate

from autodo_jax import config as config_lib
from autodo_jax.main import enable_compilation_cache
from autodo_jax.report import table
from autodo_jax.train import loop
from autodo_jax.train.setup import Setup, prepare
from autodo_jax.train.steps import Steps
from benchmarks import common
from configs import cifar10_jpeg, digits

RIVALS = ("baseline", "uniform_augment", "clean_only", "joined")
LEARNED = ("autodo_s", "autodo")
ROWS = (*RIVALS, *(f"{m}{kind}" for m in LEARNED for kind in (", frozen", "")))
MAX_PROGRAMS = 8  # kept in memory
NUM_FIRST = 3  # seeds that the first cells get before all others

Runs = dict[str, dict[str, dict[str, dict[str, Any]]]]  # cell -> seed -> row -> run


class Cell(NamedTuple):
    """Where the methods are compared."""

    num_clean: int
    imbalance: int
    noise: float
    kind: str = "uniform"
    num_points: int = 0  # train and clean photographs before IR; 0: digits
    num_seeds: int = 5

    @property
    def data(self) -> str:
        """What the points are, and how many of them are clean."""
        name = "photographs" if self.num_points else "digits"
        return f"{name}, {self.num_clean:,} clean"

    @property
    def distortion(self) -> str:
        """IR-NR, as in other tables."""
        return f"{self.imbalance}-{self.noise:g}{' pair' * (self.kind == 'pair')}"

    @property
    def name(self) -> str:
        """In the file of results."""
        return f"{self.data}, {self.distortion}"


_DISTORTIONS = (
    *((10, 0.1), (1, 0.0)),
    *((10, 0.0), (1, 0.1), (1, 0.4), (10, 0.1, "pair")),
)
_CLEAN = (40, 100, 405)
FIRST = (
    Cell(60, 10, 0.1),  # the default of configs/digits.py
    *(Cell(clean, *which) for which in _DISTORTIONS[:2] for clean in _CLEAN),
)
OTHERS = tuple(Cell(clean, *which) for which in _DISTORTIONS[2:] for clean in _CLEAN)
PHOTOS = tuple(
    Cell(clean, 10, 0.1, num_points=20_000, num_seeds=2) for clean in (200, 4000)
)


def configuration(
    cell: Cell, row: str, seed: int, photos: str = ""
) -> ml_collections.ConfigDict:
    """Returns the configuration of a run."""
    method, _, variant = row.partition(", ")
    experiment = cifar10_jpeg if cell.num_points else digits
    config = experiment.get_config(method)
    config.seed = seed
    config.num_devices = 1
    config.hyper.frozen = variant == "frozen"
    config.data.validation_size = float(cell.num_clean)
    config.data.imbalance_ratio = float(cell.imbalance)
    config.data.noise_ratio, config.data.noise_kind = cell.noise, cell.kind
    if cell.num_points:
        config.data.data_dir = photos
        config.data.max_train_points = cell.num_points
    config_lib.validate(config)
    return config


def train(config: ml_collections.ConfigDict, known: dict[str, Steps]) -> dict[str, Any]:
    """Returns errors in percent, AUROC of the noise score, seconds of the processor.

    Args:
      config: of the run.
      known: compiled steps of former runs, which runs that differ only in their points
        share; gets those of this one.
    """
    began = time.process_time()
    setup, state = prepare(config)
    key = program(config, setup)
    if key not in known and len(known) >= MAX_PROGRAMS:
        known.clear()
        jax.clear_caches()
        gc.collect()
    setup = dataclasses.replace(setup, steps=known.setdefault(key, setup.steps))
    with tempfile.TemporaryDirectory() as folder:
        result = loop.run(setup, state, pathlib.Path(folder)).result
    taken = ("test_error", "noise_auroc", "num_suspects", "lambda_epoch")
    return {
        **{name: result[name] for name in taken if name in result},
        "rare_error": table.rare_class_error(result),
        "CPU seconds": round(time.process_time() - began, 1),
    }


def program(config: ml_collections.ConfigDict, setup: Setup) -> str:
    """Returns what runs have in common that can share compiled steps."""
    fields = {
        name: value
        for name, value in config_lib.to_fields(config).items()
        if name not in _POINTS
    }
    adjustment = setup.objective.adjustment  # by the points, and part of the losses
    return json.dumps([fields, setup.plan.num_points["train"], adjustment])


_POINTS = (
    *("seed", "data.validation_size"),
    *("data.imbalance_ratio", "data.noise_ratio", "data.noise_kind"),
)


def home(cell: Cell, row: str) -> Cell:
    """Returns the cell that a row is run in and kept under."""
    if row != "clean_only":
        return cell
    return cell._replace(noise=0.0, kind="uniform")


def missing(
    runs: Runs, cells: Sequence[Cell], seeds: Sequence[int]
) -> Iterator[tuple[Cell, str, int]]:
    """Yields what is to be run, runs that share compiled steps one after another."""
    for cell in cells:
        for row in ROWS:
            for seed in seeds[: cell.num_seeds]:
                where = home(cell, row)
                found = runs.get(where.name, {}).get(str(seed), {})
                if row not in found:
                    yield where, row, seed


def errors(runs: Runs, cell: Cell, row: str) -> dict[str, float]:
    """Returns seed -> test error of a row."""
    found = runs.get(home(cell, row).name, {})
    return {
        seed: rows[row]["test_error"] for seed, rows in found.items() if row in rows
    }


def difference(runs: Runs, cell: Cell, row: str) -> tuple[str, float, float]:
    """Returns the best rival, and the paired difference to it with its standard error.

    The best rival is that of the smallest mean error over the seeds that have all rows.
    """
    ours = errors(runs, cell, row)
    rivals = {rival: errors(runs, cell, rival) for rival in RIVALS}
    seeds = [s for s in ours if all(s in found for found in rivals.values())]
    if not seeds:
        return "-", np.nan, np.nan
    values = {name: np.array([r[s] for s in seeds]) for name, r in rivals.items()}
    best = min(values, key=lambda name: values[name].mean())
    paired = np.array([ours[s] for s in seeds]) - values[best]
    error = paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else np.nan
    return best, float(paired.mean()), float(error)


def to_table(runs: Runs, cells: Sequence[Cell]) -> str:
    """Returns a Markdown table: errors of cells that differ in their distortion."""
    lines: list[dict[str, str]] = []
    for row in ROWS:
        line = {"test error %": row}
        for cell in cells:
            line[cell.distortion] = _spread([*errors(runs, cell, row).values()])
        lines.append(line)
    for row in LEARNED:
        line = {"test error %": f"{row} - best rival"}
        for cell in cells:
            best, mean, error = difference(runs, cell, row)
            line[cell.distortion] = "-"
            if best != "-":
                spread = "" if np.isnan(error) else f" ± {error:.1f}"
                line[cell.distortion] = f"{mean:+.1f}{spread} ({best})"
        lines.append(line)
    counts = {"test error %": "seeds"}
    for cell in cells:
        most = max(len(errors(runs, cell, row)) for row in LEARNED)
        counts[cell.distortion] = str(most)
    return tabulate.tabulate([*lines, counts], "keys", "github", disable_numparse=True)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}"


def tables(runs: Runs) -> str:
    """Returns the tables of cells in which something is learned, for each data set."""
    by_data: dict[str, list[Cell]] = {}
    for cell in (*FIRST, *OTHERS, *PHOTOS):
        if any(errors(runs, cell, row) for row in LEARNED):
            by_data.setdefault(cell.data, []).append(cell)
    return "\n\n".join(
        f"### {data}\n\n{to_table(runs, cells)}" for data, cells in by_data.items()
    )


def work(
    runs: Runs, seeds: Sequence[int], *, only: str, photos: str
) -> Iterator[tuple[Cell, str, int]]:
    """Yields the runs in the order in which they are of use."""
    for cells, which in (
        (FIRST[:1], seeds),
        (FIRST[1:], seeds[:NUM_FIRST]),
        (OTHERS, seeds[:NUM_FIRST]),
        ((*FIRST, *OTHERS), seeds),
        (PHOTOS if photos else (), seeds),
    ):
        chosen = [cell for cell in cells if only in cell.name]
        yield from missing(runs, chosen, which)


def main() -> None:
    """Prints the tables and keeps each run; skips those done before."""
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--only", default="", help="cells whose name has this text")
    parser.add_argument("--photos", default="", help="see configs/cifar10_jpeg.py")
    arguments = parser.parse_args()
    enable_compilation_cache()
    runs = common.runs_of(arguments.json)
    known: dict[str, Steps] = {}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for cell, row, seed in work(
        runs, seeds, only=arguments.only, photos=arguments.photos
    ):
        found = train(configuration(cell, row, seed, arguments.photos), known)
        runs.setdefault(cell.name, {}).setdefault(str(seed), {})[row] = found
        common.write(arguments.json, runs=runs)
        print(f"{cell.name}, seed {seed}, {row}: {found}", flush=True)
    print(f"\n{tables(runs)}")


if __name__ == "__main__":
    main()
