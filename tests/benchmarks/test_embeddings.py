"""The head on frozen features: which step of Lambda is best in hindsight, by hand."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    pytest.importorskip("cleanlab", reason="needs the extra `bench`")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from benchmarks import embeddings

    return embeddings


def test_the_best_step_is_one_for_all_seeds_or_one_for_each(benchmark):
    seeds = {
        "0": {"autodo, unguarded": {"path": [30.0, 27.0, 26.0], "error": 26.0}},
        "1": {"autodo, unguarded": {"path": [33.0, 28.0, 31.0], "error": 31.0}},
        "2": {"joined": {"error": 20.0}},
    }
    # The means of the steps are 31.5, 27.5 and 28.5.
    assert benchmark.best_steps(seeds, by_seed=False) == [27.0, 28.0]
    assert benchmark.best_steps(seeds, by_seed=True) == [26.0, 28.0]
    assert benchmark.best_steps({"2": seeds["2"]}, by_seed=False) == []
    table = benchmark.to_table({"cell": seeds})
    assert "| autodo, best step          | 27.5 ± 0.7 |" in table
    assert "| autodo, best step, by seed | 27.0 ± 1.4 |" in table
