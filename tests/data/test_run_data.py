"""The data of a run: which points are in which part, before and after distortion."""

import numpy as np
import pytest

from autodo_jax.data import run_data
from configs import digits


def load(**fields):
    config = digits.get_config()
    config.data.update(fields)
    return run_data.load(config)


def test_only_the_train_set_is_distorted():
    plain = load(imbalance_ratio=1.0, noise_ratio=0.0)
    distorted = load()
    for part in ("validation", "test"):
        np.testing.assert_array_equal(
            getattr(plain.splits, part).labels, getattr(distorted.splits, part).labels
        )
    assert not plain.is_flipped.any()
    assert set(distorted.splits.train.ids) < set(plain.splits.train.ids)
    # A tenth is drawn again, and a tenth of these keep their label.
    assert distorted.is_flipped.mean() == pytest.approx(0.09, abs=0.02)
    clean = dict(zip(plain.splits.train.ids, plain.splits.train.labels, strict=True))
    np.testing.assert_array_equal(
        distorted.clean_labels, [clean[name] for name in distorted.splits.train.ids]
    )


def test_the_outer_loss_may_be_taken_on_the_test_set():
    splits = load(outer_set="test").splits
    np.testing.assert_array_equal(splits.validation.ids, splits.test.ids)
    np.testing.assert_array_equal(splits.train.labels, load().splits.train.labels)


def test_the_outer_loss_may_be_taken_on_all_points_but_the_test_set():
    usual, splits = load().splits, load(outer_set="train").splits
    np.testing.assert_array_equal(splits.validation.labels, splits.train.labels)
    assert len(splits.train.ids) > len(usual.train.ids)
    assert set(splits.train.ids) & set(usual.validation.ids)
    assert not set(splits.train.ids) & set(splits.test.ids)
    rest = load(imbalance_ratio=1.0, noise_ratio=0.0).splits
    assert set(splits.train.ids) < {*rest.train.ids, *rest.validation.ids}
