"""The label audit: its figures by hand, its rows on points with a known answer."""

import numpy as np
import pytest

from benchmarks import label_noise as benchmark


def test_figures_by_hand():
    # Ranked wrong, right, wrong, right, right; of the three suspects two are wrong.
    score = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    is_wrong = np.array([True, False, True, False, False])
    found = benchmark.figures(benchmark.Scored(score, score > 0.5), is_wrong)
    assert found["AUROC"] == pytest.approx(5 / 6)
    assert found["AP"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["lift"] == pytest.approx(0.5 / 0.4)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == 1


def clusters(labels, seed=0):
    """Images of two shades, by the true class, which is that of the position."""
    rng = np.random.default_rng(seed)
    shade = 60 + 120 * (np.arange(len(labels)) % 2)
    pixels = shade[:, None, None, None] + rng.integers(-9, 10, (len(labels), 4, 4, 1))
    return pixels.astype(np.uint8), np.array(labels)


def test_neighbours_disagree_with_a_wrong_label():
    labels = np.arange(60) % 2
    labels[7] = 0
    given, among = clusters(labels), clusters(np.arange(60) % 2, seed=1)
    for points, itself in ((given, True), (among, False)):
        found = benchmark.disagreement(given, points, itself=itself)
        assert found[7] == 1
        assert (np.delete(found, 7) <= 0.2).all()


def test_out_of_sample_probabilities_are_not_of_a_points_own_label():
    labels = np.arange(60) % 2
    labels[7] = 0
    given = clusters(labels)
    nothing = (given[0][:0], given[1][:0])
    probability = benchmark.out_of_sample(
        benchmark.fit_logistic_regression, given, nothing
    )
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    of_given = benchmark.of_labels(probability, labels)
    assert of_given[7] < 0.2 and np.delete(of_given, 7).min() > 0.6

    seen = []

    def remembers(points):
        seen.append(len(points[1]))
        return lambda images: np.full((len(images), 2), 0.5)

    benchmark.out_of_sample(remembers, given, clusters([0, 1]))
    assert seen == [50] * 5  # Four folds of five, and the two others.


def test_the_table_shows_paired_differences():
    def run(ours, other):
        rest = dict.fromkeys(benchmark.FIGURES, 0.5)
        return {benchmark.OURS: rest | {"AP": ours}, "other": rest | {"AP": other}}

    table = benchmark.to_table({"0": run(0.9, 0.8), "1": run(0.7, 0.4)})
    *_, other = table.splitlines()
    assert [cell.strip() for cell in other.split("|")][-2] == "+0.200 ± 0.141"
    assert "0.600 ± 0.283" in other


def test_the_noise_of_each_run_is_the_one_it_is_named_for():
    config = benchmark.configuration(None, "baseline")
    assert config.data.imbalance_ratio == 1 and config.data.source == "digits"
    assert benchmark.NOISES["pair 20 %"] == ("pair", 0.2)
