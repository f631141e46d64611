"""Folds, calibrated losses, and where Lambda is stopped."""

import numpy as np
import pytest

from autodo_jax.train import guard

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_folds_are_stratified(num_folds):
    labels = np.repeat(np.arange(4), [9, 3, 7, 4])
    folds = guard.assign_folds(labels, num_folds, seed=1)
    assert np.ptp(np.bincount(folds, minlength=num_folds)) <= 1
    for label in range(4):
        assert np.ptp(np.bincount(folds[labels == label], minlength=num_folds)) <= 1
    again = guard.assign_folds(labels, num_folds, seed=1)
    np.testing.assert_array_equal(folds, again)
    assert (folds != guard.assign_folds(labels, num_folds, seed=2)).any()


def test_calibration_finds_the_factor_that_was_taken_out():
    logits = RNG.normal(size=(400, 3)) * 2
    labels = np.array([RNG.choice(3, p=p) for p in softmax(logits)])
    found = guard.calibrated_losses(7 * logits, labels)
    grid = [cross_entropy(s * logits, labels) for s in np.linspace(0.2, 3, 400)]
    assert found.mean() == pytest.approx(min(grid), abs=1e-4)
    np.testing.assert_allclose(
        found, guard.calibrated_losses(0.3 * logits, labels), atol=1e-3
    )


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def cross_entropy(logits, labels):
    return -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()


def losses_of(means, noise):
    """[E, 100] losses with these means, and paired differences of this deviation."""
    signs = np.tile([1, -1], 50)
    return np.array([mean + (i % 2) * noise * signs for i, mean in enumerate(means)])


def test_without_an_expectation_the_smallest_loss_is_taken():
    stop = guard.choose_stop(losses_of([3, 2, 1, 2], 0))
    assert (stop.epoch, stop.best, stop.is_over) == (2, 2, False)


def test_the_expected_epoch_is_taken_unless_the_points_contradict():
    means = [2.0, 1.0, 1.05, 1.05, 1.2]
    # One standard error of 100 points is a tenth of the deviation.
    unsure, sure = losses_of(means, 1.0), losses_of(means, 0.1)
    assert guard.choose_stop(unsure, expected=2).epoch == 2
    assert guard.choose_stop(unsure, expected=4).epoch == 2
    assert guard.choose_stop(sure, expected=4).epoch == 1


def test_it_is_over_after_the_patience_and_the_expected_epoch():
    losses = losses_of([3, 1, 2, 2, 2], 0)
    over = [guard.choose_stop(losses[:n], patience=2).is_over for n in range(1, 6)]
    assert over == [False, False, False, True, True]
    assert not guard.choose_stop(losses, patience=2, expected=5).is_over
    assert guard.choose_stop(losses, patience=2, expected=4).is_over


@pytest.mark.parametrize("losses", [np.zeros((0, 3)), np.zeros(3), [[1.0, np.nan]]])
def test_losses_that_say_nothing_are_refused(losses):
    with pytest.raises(ValueError, match="`losses` must be finite"):
        guard.choose_stop(losses)


def test_the_explanation_names_epoch_and_losses():
    records = [{"held_out_loss": loss} for loss in (1.5, 1.0, 1.25)]
    records[-1]["lambda_epoch"] = 3
    assert guard.explain(records) == (
        "Lambda is that of epoch 3 of 3: the loss of held-out clean points is 1.250 "
        "there, 1.000 at best (epoch 2) and 1.500 at the start"
    )
