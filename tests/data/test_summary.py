"""What is said of data before training, on counts that are known."""

import numpy as np
import pytest

from autodo_jax.data import summary
from autodo_jax.data.dataset import Dataset, SourceSplits


def part(*counts, names="abcdefghijklmnopqrstuvwxyz", notes=()):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    ids = np.array([f"{i}.png" for i in range(len(labels))])
    return Dataset(images, labels, ids, tuple(names[: len(counts)]), notes)


@pytest.mark.parametrize(
    ("train", "validation", "test", "expected"),
    [
        ((9, 9), (2, 2), (1, 1), []),
        ((9, 4), (2, 2), (1, 1), ["the class 'b' has fewer than 5 train images"]),
        ((1, 4, 9), (2, 2, 2), (1, 0, 0), ["the classes 'a', 'b' have fewer than 5"]),
        ((9, 9), (3, 0), (1, 1), ["the class 'b' has no validation image"]),
        ((9, 9, 9), (1, 1, 0), (1, 1, 1), ["are 2 validation images for 3 classes"]),
        ((9, 9), (2, 2), (0, 0), ["there is no test set"]),
        ((0, 9), (1, 0), (0, 0), ["'a' has fewer", "1 validation", "no test set"]),
        ([1] * 9, [1] * 9, [1] * 9, ["'e' and 4 others have fewer than 5"]),
    ],
)
def test_what_will_not_work_is_warned_of(train, validation, test, expected):
    splits = part(*train), part(*validation), part(*test)
    found = summary.summarize(SourceSplits(*splits), splits, None).warnings
    assert len(found) == len(expected)
    assert all(text in warning for text, warning in zip(expected, found, strict=True))


def test_its_rows_are_counts_and_what_the_source_says():
    given = part(9, 3, notes=(("left out", "2 files"),))
    splits = given.take(np.arange(8)), given.take(np.arange(8, 12)), part(0, 0)
    rows = dict(summary.summarize(SourceSplits(given), splits, None).rows)
    assert rows["images"] == (
        "8 train, 4 validation split off, 0 test; of 12 given train images the 8 left "
        "in the train set are scored"
    )
    assert rows["classes"] == "2: a 8, b 0" and rows["left out"] == "2 files"
    assert "streamed" in rows["duplicates"]


def test_of_many_classes_the_largest_and_the_smallest_are_listed():
    many = part(*range(26, 0, -1))
    rows = dict(summary.summarize(SourceSplits(many), (many,) * 3, None).rows)
    assert rows["classes"].startswith("26: a 26, b 25, c 24, d 23, e 22, f 21, ..., ")
    assert rows["classes"].endswith("u 6, v 5, w 4, x 3, y 2, z 1")


def test_classes_far_below_the_mean_are_rare():
    # The mean is 15, a fifth of it 3.
    def rows(*counts):
        train = part(*counts)
        return dict(summary.summarize(SourceSplits(train), (train,) * 3, None).rows)

    assert rows(41, 2, 15, 2)["rare classes"].startswith("b 2, d 2, less than a fifth")
    assert "the mean of 15" in rows(41, 2, 15, 2)["rare classes"]
    assert "rare classes" not in rows(41, 3, 13, 3)
