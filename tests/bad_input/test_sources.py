"""Arrays that a source of one's own may deliver, and that cannot be used."""

import numpy as np
import pytest

from autodo_jax.data import sources
from autodo_jax.data.dataset import Dataset, SourceSplits
from tests.bad_input import refusal
from tests.test_main import DIGITS, TINY


def dataset(**changed):
    num_points = len(changed.get("images", range(40)))
    rng = np.random.default_rng(0)
    return Dataset(
        images=rng.integers(0, 256, (num_points, 8, 8, 1), dtype=np.uint8),
        labels=np.arange(num_points, dtype=np.int32) % 2,
        ids=np.arange(num_points).astype(str),
        class_names=("a", "b"),
    )._replace(**changed)


GOOD = dataset()


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (
            SourceSplits(dataset(images=np.ones((4, 8, 8, 1), "f4"))),
            "the train images are float32",
        ),
        (
            SourceSplits(dataset(images=np.ones((4, 8, 8), "u1"))),
            "have shape (4, 8, 8)",
        ),
        (
            SourceSplits(dataset(images=np.ones((0, 8, 8, 1), "u1"))),
            "have shape (0, 8, 8, 1)",
        ),
        (
            SourceSplits(dataset(images=np.ones((4, 8, 8, 3), "u1"))),
            "have 3 channels, config.data.mean",
        ),
        (SourceSplits(dataset(labels=np.zeros(40))), "labels are float64"),
        (
            SourceSplits(dataset(labels=np.zeros((40, 2), int))),
            "labels of shape (40, 2)",
        ),
        (
            SourceSplits(dataset(labels=np.zeros(39, int))),
            "labels of shape (39,) for 40",
        ),
        (SourceSplits(dataset(labels=np.arange(40) % 3 - 1)), "labels are in -1..1"),
        (
            SourceSplits(dataset(labels=np.arange(40) % 3)),
            "labels are in 0..2, expected 0..1",
        ),
        (SourceSplits(dataset(labels=np.zeros(40, int))), "no points of class b"),
        (
            SourceSplits(dataset(ids=np.r_[:39, 7].astype(str))),
            "2 train points have the id 7",
        ),
        (SourceSplits(dataset(ids=np.array(list("abc")))), "ids of shape (3,)"),
        (
            SourceSplits(GOOD, GOOD),
            "40 of 40 validation images are in the train set too, 0 as 0",
        ),
        (
            SourceSplits(GOOD, GOOD._replace(labels=np.full(40, 5))),
            "the validation labels are in 5..5",
        ),
    ],
)
def test_arrays(splits, expected, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sources.SOURCES, "digits", lambda data, seed: splits)
    status, error = refusal([DIGITS, *TINY], tmp_path / "run", capfd)
    assert status == 2 and expected in error
