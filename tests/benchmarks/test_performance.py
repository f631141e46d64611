"""docs/performance.md shows what benchmarks/results hold."""

from benchmarks import performance


def test_tables_are_those_of_the_results():
    text = performance.PAGE.read_text()
    assert performance.filled(text) == text
    assert all(f"<!-- {name} -->\n| " in text for name in performance.TABLES)


def test_spread_by_hand():
    # Quartiles of 1..7 are 2, 4 and 6.
    assert performance._spread([7, 1, 2, 6, 3, 5, 4]) == "4.00 ± 2.00"
    assert performance._spread([1.0, 3.0, 2.0], 1) == "2.0 ± 1.0"
