"""Class imbalance and label noise against their definitions (Sec. 5.1)."""

import numpy as np
import pytest

from autodo_jax.data import distort
from autodo_jax.data.dataset import Dataset


def balanced(per_class, num_classes=10):
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), per_class)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    ids = np.array([str(i) for i in range(len(labels))])
    return Dataset(images, labels, ids, tuple(map(str, range(num_classes))))


@pytest.mark.parametrize("ratio", [2, 10, 100])
@pytest.mark.parametrize("num_classes", [10, 7])
def test_rare_classes_together_keep_their_share(ratio, num_classes):
    dataset = balanced(200, num_classes)
    kept = distort.imbalance(dataset, ratio, num_classes, np.random.default_rng(0))
    counts = np.bincount(kept.labels, minlength=num_classes)
    frequent, rare = counts[: num_classes // 2], counts[num_classes // 2 :]
    assert (frequent == 200).all()
    assert rare.sum() == round(frequent.sum() / ratio)
    assert rare.max() - rare.min() <= 1


def test_kept_points_are_whole_and_chosen_at_random():
    dataset = balanced(20)
    first, second = (
        distort.imbalance(dataset, 4, 10, np.random.default_rng(seed))
        for seed in (0, 1)
    )
    position = first.ids.astype(int)
    np.testing.assert_array_equal(first.labels, dataset.labels[position])
    np.testing.assert_array_equal(first.images, dataset.images[position])
    assert set(first.ids) != set(second.ids)


def test_a_ratio_of_one_changes_nothing():
    dataset = balanced(3)
    assert distort.imbalance(dataset, 1, 10, np.random.default_rng(0)) is dataset


def test_noise_draws_a_share_of_the_labels_over_all_classes():
    labels = np.full(20_000, 4, np.int32)
    noisy = distort.flip_labels(labels, 0.5, 10, np.random.default_rng(0))
    counts = np.bincount(noisy, minlength=10)
    # 10,000 labels drawn again, of which one in ten comes out as 4 again.
    others = np.delete(counts, 4)
    assert abs(others.sum() - 9000) < 150
    assert np.sum((others - 1000) ** 2 / 1000) < 21.7  # chi2(9), 1 %
    np.testing.assert_array_equal(labels, 4)


@pytest.mark.parametrize(("ratio", "changed"), [(0.0, 0), (1.0, 1000)])
def test_noise_ratio_at_its_ends(ratio, changed):
    labels = np.zeros(1000, np.int32)
    noisy = distort.flip_labels(labels, ratio, 1000, np.random.default_rng(0))
    assert abs(int((noisy != labels).sum()) - changed) <= 5


def test_pair_flips_make_a_share_of_the_labels_the_next_class():
    labels = np.arange(1000, dtype=np.int32) % 10
    rngs = [np.random.default_rng(0) for _ in range(2)]
    noisy = distort.flip_labels(labels, 0.2, 10, rngs[0], "pair")
    chosen = rngs[1].permutation(1000)[:200]
    expected = labels.copy()
    expected[chosen] = np.where(labels[chosen] == 9, 0, labels[chosen] + 1)
    np.testing.assert_array_equal(noisy, expected)
