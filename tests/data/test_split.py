"""The split: disjoint, stratified, of the sizes asked for, by the seed alone."""

import ml_collections
import numpy as np
import pytest

from autodo_jax.data import split
from autodo_jax.data.dataset import SourceSplits
from autodo_jax.data.sources import digits as source
from autodo_jax.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return source.load(ml_collections.ConfigDict(), seed=0).train


def split_digits(digits, seed):
    return split.stratified_split(
        SourceSplits(digits), test_size=0.25, validation_size=0.3, seed=seed
    )


def test_digits_are_the_published_scans(digits):
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.dtype == np.uint8
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert len(set(digits.ids)) == 1797
    assert digits.class_names == tuple("0123456789")


def test_parts_are_disjoint_complete_and_stratified(digits):
    parts = split_digits(digits, seed=0)
    ids = np.concatenate([part.ids for part in parts])
    assert sorted(ids) == sorted(digits.ids)
    assert [len(part.labels) for part in parts] == [942, 405, 450]
    shares = np.bincount(digits.labels) / len(digits.labels)
    for part in parts:
        expected = shares * len(part.labels)
        assert np.abs(np.bincount(part.labels) - expected).max() <= 1


def test_points_keep_their_image_and_label(digits):
    test = split_digits(digits, seed=3).test
    row = {name: i for i, name in enumerate(digits.ids)}
    for i in (0, 17, 449):
        np.testing.assert_array_equal(test.images[i], digits.images[row[test.ids[i]]])
        assert test.labels[i] == digits.labels[row[test.ids[i]]]


def test_the_seed_decides(digits):
    first, same, other = (split_digits(digits, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.ids, same.train.ids)
    assert set(first.test.ids) != set(other.test.ids)


def test_sizes_of_one_and_more_are_numbers_of_points(digits):
    parts = split.stratified_split(
        SourceSplits(digits), test_size=97, validation_size=200.0, seed=0
    )
    assert [len(part.labels) for part in parts] == [1500, 200, 97]


def test_parts_that_a_source_has_are_kept(digits):
    first, second = np.arange(1000), np.arange(1000, 1797)
    given = SourceSplits(digits.take(first), None, digits.take(second))
    parts = split.stratified_split(given, test_size=0.25, validation_size=0.3, seed=0)
    assert parts.test is given.test
    assert sorted([*parts.train.ids, *parts.validation.ids]) == sorted(
        digits.ids[first]
    )


def test_a_class_too_small_to_be_divided_is_refused(digits):
    few = digits.take(np.flatnonzero((digits.labels > 0) | (np.arange(1797) == 0)))
    with pytest.raises(
        DataError, match=r"test_size is 0\.25: the class 0 has a single"
    ):
        split.stratified_split(
            SourceSplits(few), test_size=0.25, validation_size=0.3, seed=0
        )
