"""The cells: figures by hand, which runs are missing, and which rows a run shares."""

import types
from typing import Any

import numpy as np
import pytest

from benchmarks import cells as benchmark
from benchmarks.cells import Cell

FEW, MANY = Cell(40, 10, 0.1), Cell(405, 10, 0.1)


def runs_of(cell, errors):
    """row -> errors of the seeds, as the file holds them."""
    runs: benchmark.Runs = {}
    for row, values in errors.items():
        where = runs.setdefault(benchmark.home(cell, row).name, {})
        for seed, error in enumerate(values):
            where.setdefault(str(seed), {})[row] = {"test_error": error}
    return runs


ERRORS = {
    "baseline": [9.0, 9.0],
    "uniform_augment": [6.0, 6.0],
    "clean_only": [3.0, 5.0],
    "joined": [4.0, 4.5],
    "autodo": [1.0, 4.0],
}


def test_the_difference_to_the_best_rival_by_hand():
    runs = runs_of(FEW, ERRORS)
    # clean_only is best by its mean of 4: differences of -2 and -1.
    best, mean, error = benchmark.difference(runs, FEW, "autodo")
    assert (best, mean, error) == ("clean_only", -1.5, pytest.approx(0.5))
    text = benchmark.to_table(runs, [FEW])
    assert "-1.5 ± 0.5 (clean_only)" in text
    assert "2.5 ± 2.1" in text and "9.0 ± 0.0" in text


def test_a_seed_that_lacks_a_rival_does_not_count():
    runs = runs_of(FEW, ERRORS | {"joined": [4.0]})
    best, mean, error = benchmark.difference(runs, FEW, "autodo")
    assert (best, mean) == ("clean_only", -2.0) and np.isnan(error)
    best, mean, _ = benchmark.difference(runs_of(FEW, {}), FEW, "autodo")
    assert best == "-" and np.isnan(mean)


def test_clean_points_alone_are_learned_from_once_for_all_noise():
    cells = [Cell(40, 10, 0.1), Cell(40, 10, 0.0), Cell(40, 10, 0.1, "pair")]
    assert len({benchmark.home(cell, "clean_only") for cell in cells}) == 1
    assert len({benchmark.home(cell, "joined") for cell in cells}) == 3
    assert benchmark.home(Cell(40, 1, 0.0), "clean_only") not in cells


def test_runs_that_are_there_are_not_repeated():
    runs = runs_of(FEW, ERRORS)
    found = list(benchmark.missing(runs, [FEW], [0, 1, 2]))
    assert (FEW, "joined", 2) in found and (FEW, "joined", 1) not in found
    assert len(found) == 3 * len(benchmark.ROWS) - 2 * len(ERRORS)


@pytest.mark.parametrize("row", benchmark.ROWS)
def test_a_row_is_the_run_it_is_named_for(row):
    config = benchmark.configuration(MANY, row, 3)
    assert config.method == row.split(",")[0] and config.seed == 3
    assert config.hyper.frozen == row.endswith("frozen")
    assert config.data.validation_size == 405 and config.data.imbalance_ratio == 10
    learns = config.method.startswith("autodo")
    assert bool(config.task.joined_epochs) == learns  # the control's too


def test_the_first_cells_come_first():
    work = list(benchmark.work({}, [0, 1, 2, 3, 4], only="", photos=""))
    cells = [cell.name for cell, *_ in work]
    assert cells[0] == "digits, 60 clean, 10-0.1"
    first = work.index((Cell(40, 10, 0.0), "baseline", 0))
    assert {seed for _, _, seed in work[:first]} == {0, 1, 2, 3, 4}
    assert {seed for cell, _, seed in work[:first] if cell == FEW} == {0, 1, 2}
    assert not any("photographs" in name for name in cells)


def test_runs_share_compiled_steps_but_not_with_other_adjusted_logits():
    """What is added to the logits is a constant of the compiled losses."""

    def program(seed, adjustment, num_train=300):
        setup: Any = types.SimpleNamespace(
            plan=types.SimpleNamespace(num_points={"train": num_train}),
            objective=types.SimpleNamespace(adjustment=adjustment),
        )
        return benchmark.program(benchmark.configuration(FEW, "autodo", seed), setup)

    assert program(0, ()) == program(1, ())
    assert program(0, (0.5, -0.5)) != program(1, (0.4, -0.6))
    assert program(0, ()) != program(1, (), num_train=301)
