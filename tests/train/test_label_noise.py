"""Wrong labels found in draws of a known model, where Bayes' rule is the truth."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from autodo_jax.train import label_noise

CLASSES = 4
SHARES = np.array([0.5, 0.3, 0.15, 0.05])
# Of points of true class y, the shares that are given label g: rows y, columns g.
UNIFORM = 0.88 * np.eye(CLASSES) + 0.03
PAIR = 0.8 * np.eye(CLASSES) + 0.2 * np.roll(np.eye(CLASSES), 1, axis=1)
CLEAN = np.eye(CLASSES)


def draw(rng, num_points, shares, confusion, apart=2.5):
    """(log p(x | y) [N, C], true labels, given labels) of a Gaussian in each class."""
    true = rng.choice(CLASSES, num_points, p=shares)
    centres = apart * np.eye(CLASSES)
    x = centres[true] + rng.standard_normal((num_points, CLASSES))
    log_density = -0.5 * ((x[:, None] - centres) ** 2).sum(axis=2)
    given = np.array([rng.choice(CLASSES, p=confusion[y]) for y in true])
    return log_density, true, given


def network(log_density, shares):
    """Logits of a network that is sure of itself and has seen these shares."""
    return 3.0 * (log_density + np.log(shares)) + 1.0


@pytest.fixture(scope="module", params=["uniform", "pair", "clean"])
def drawn(request):
    rng = np.random.default_rng(0)
    confusion = {"uniform": UNIFORM, "pair": PAIR, "clean": CLEAN}[request.param]
    log_density, true, given = draw(rng, 4000, SHARES, confusion)
    balanced = np.full(CLASSES, 1 / CLASSES)
    clean_density, clean, _ = draw(rng, 400, balanced, CLEAN)
    found = label_noise.estimate(
        network(log_density, SHARES), given, network(clean_density, SHARES), clean
    )
    joint = np.log(SHARES) + np.log(np.maximum(confusion, 1e-30))[:, given].T
    exact = scipy.special.softmax(log_density + joint, axis=1)
    return request.param, found, exact, true, given


def test_probabilities_are_those_of_bayes_rule(drawn):
    kind, found, exact, _, given = drawn
    # The prior is uniform noise, of which pair flips are the opposite.
    most = 0.04 if kind == "pair" else 0.024
    wrong = 1 - exact[np.arange(len(given)), given]
    assert np.abs(found.wrong - wrong).mean() < most
    assert np.mean(found.likeliest == exact.argmax(axis=1)) > 0.98


def test_the_number_of_wrong_labels_is_known(drawn):
    kind, found, _, true, given = drawn
    wrong = np.sum(true != given)
    if kind == "clean":
        assert found.wrong.sum() < 0.02 * len(given)
        return
    assert found.wrong.sum() == pytest.approx(wrong, rel=0.15)
    np.testing.assert_allclose(found.counts.sum(axis=1), np.bincount(given))
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (given, true), 1)
    np.testing.assert_allclose(found.counts, table, atol=60)


def test_labels_of_a_rare_class_are_known_to_be_wrong_more_often():
    """Uniform noise gives it many points of others, whatever the network can say."""
    rng = np.random.default_rng(0)
    log_density, true, given = draw(rng, 1000, SHARES, UNIFORM, apart=1.0)
    clean_density, clean, _ = draw(rng, 400, np.full(CLASSES, 0.25), CLEAN, apart=1.0)
    found = label_noise.estimate(
        network(log_density, SHARES), given, network(clean_density, SHARES), clean
    )
    joint = np.log(SHARES) + np.log(UNIFORM)[:, given].T
    exact = scipy.special.softmax(log_density + joint, axis=1)
    error = np.abs(found.wrong - (1 - exact[np.arange(len(given)), given]))
    assert error.mean() < 0.02 and error[given == CLASSES - 1].mean() < 0.05
    wrong = np.mean((true != given)[given == CLASSES - 1])
    assert wrong > 0.35 and np.mean(true != given) < 0.1


def test_suspects_are_those_of_bayes_rule(drawn):
    kind, found, exact, true, given = drawn
    suspect = found.likeliest != given
    best = exact.argmax(axis=1) != given
    assert np.mean(suspect == best) > 0.98
    if kind != "clean":
        assert 0.5 < suspect.sum() / np.sum(true != given) < 1.5
        assert np.mean((true != given)[suspect]) > 0.8


def test_calibration_finds_scale_and_bias():
    rng = np.random.default_rng(1)
    logits = 2 * rng.standard_normal((20_000, 3))
    right = scipy.special.softmax(0.5 * logits + [0.0, 0.7, -0.7], axis=1)
    labels = (rng.random((len(right), 1)) > right.cumsum(axis=1)).sum(axis=1)
    scale, bias = label_noise.calibrate(logits, labels)
    assert scale == pytest.approx(0.5, rel=0.05)
    np.testing.assert_allclose(bias - bias[0], [0.0, 0.7, -0.7], atol=0.05)


def test_a_few_clean_points_are_enough_to_be_careful():
    """Of a network that knows nothing no label is suspect."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((200, 5))
    labels, clean = np.arange(200) % 5, np.arange(10) % 5
    found = label_noise.estimate(logits, labels, rng.standard_normal((10, 5)), clean)
    assert np.mean(found.likeliest != labels) < 0.1


def test_a_class_of_one_point_and_no_points():
    logits = np.log(np.full((3, 3), 0.1) + 0.7 * np.eye(3))
    labels = np.array([0, 1, 2])
    found = label_noise.estimate(logits, labels, logits, labels)
    assert np.array_equal(found.likeliest, labels)
    nothing = label_noise.estimate(logits[:0], labels[:0], logits, labels)
    assert nothing.likeliest.shape == nothing.wrong.shape == (0,)


def test_without_clean_points_the_logits_are_taken_as_they_are():
    rng = np.random.default_rng(3)
    logits, nothing = 3 * rng.standard_normal((500, 4)), np.zeros((0, 4))
    assert label_noise.calibrate(nothing, np.zeros(0, int)) == (1, pytest.approx(0))
    labels = logits.argmax(axis=1)
    labels[:50] = (labels[:50] + 1) % 4
    found = label_noise.estimate(logits, labels, nothing, np.zeros(0, int))
    # Bayes' rule with the shares of true classes, found by this estimate itself.
    sure = scipy.special.softmax(logits, axis=1)[np.arange(500), labels]
    rank = scipy.stats.spearmanr(found.wrong, 1 - sure).statistic
    assert rank > 0.95 and 0 < np.sum(found.likeliest != labels) < 100


def test_large_sets_are_estimated_from_a_part_in_bounded_memory(monkeypatch):
    rng = np.random.default_rng(4)
    log_density, true, given = draw(rng, 6000, SHARES, UNIFORM)
    clean = draw(rng, 400, SHARES, CLEAN)
    operands = log_density, given, clean[0], clean[1]
    whole = label_noise.estimate(*operands)
    monkeypatch.setattr(label_noise, "_MAX_POINTS", 1500)
    monkeypatch.setattr(label_noise, "_BLOCK", 700)
    part = label_noise.estimate(*operands)
    assert np.abs(part.wrong - whole.wrong).mean() < 0.01
    np.testing.assert_allclose(part.counts.sum(axis=1), np.bincount(given))
    assert part.wrong.sum() == pytest.approx(np.sum(true != given), rel=0.15)
