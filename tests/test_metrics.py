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


def test_an_empty_set_has_no_error():
    nothing = metrics.Evaluation(*[np.zeros(0)] * 4)
    assert np.isnan([nothing.loss, nothing.error]).all()


def test_noise_score_is_the_probability_of_the_other_classes():
    probability = np.array([0.9, 0.5, 1e-9], np.float32)
    scored = metrics.Evaluation(-np.log(probability), *[np.zeros(3)] * 3)
    np.testing.assert_allclose(scored.noise_score, [0.1, 0.5, 1.0], rtol=1e-6)


def test_noise_auroc_is_the_share_of_pairs_in_order():
    flipped = np.array([False, True, False, True])
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert metrics.noise_auroc(scores, flipped) == 0.75
    assert metrics.noise_auroc(scores, np.zeros(4, bool)) is None
