"""Errors and rankings against hand-counted examples."""

import numpy as np

from autodo_jax import metrics


def test_evaluation_counts_errors_by_class():
    evaluation = metrics.Evaluation(
        losses=np.array([0.0, 1.0, 2.0, 3.0]),
        predictions=np.array([0, 1, 1, 2]),
        confidences=np.ones(4),
        labels=np.array([0, 0, 1, 1]),
    )
    assert evaluation.loss == 1.5
    assert evaluation.error == 50.0
    np.testing.assert_array_equal(evaluation.class_error(3), [50.0, 50.0, np.nan])


LABELS = np.array([0, 1, 1])
LOSSES = np.array([0.3, 0.2, 0.9])
SOFT = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
WEIGHTS = np.array([1.0, 0.2, 2.0])


def test_noise_score_prefers_soft_labels_then_weights_then_losses():
    scores = metrics.noise_score(LABELS, LOSSES, soft_labels=SOFT, weights=WEIGHTS)
    np.testing.assert_allclose(scores, [0.1, 0.6, 0.2])
    np.testing.assert_array_equal(
        metrics.noise_score(LABELS, LOSSES, weights=WEIGHTS), -WEIGHTS
    )
    np.testing.assert_array_equal(metrics.noise_score(LABELS, LOSSES), LOSSES)


def test_noise_auroc_is_the_share_of_pairs_in_order():
    flipped = np.array([False, True, False, True])
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert metrics.noise_auroc(scores, flipped) == 0.75
    assert metrics.noise_auroc(scores, np.zeros(4, bool)) is None
