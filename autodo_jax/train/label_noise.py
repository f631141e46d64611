"""Which labels are wrong: the network's probabilities, read with the clean set.

A network says p(y | x) as its training made it: too sure or unsure of itself, and with
the classes as rare as its images were. A clean set that it has not learned from
corrects that; how often class y is given label g then follows from the train labels
themselves, as the maximum of their likelihood (Dawid and Skene, 1979; Saerens et al.,
2002, where each given label has its own shares of the classes).
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

_TEMPERATURE_PENALTY, _BIAS_PENALTY = 0.1, 1.0  # half their squares, in points
# A network that knows little says little of the rate of wrong labels: it is held to a
# usual one by half as many points as there are, and the classes of a label to those
# of uniform noise at that rate by three times as many as have the label, and a few.
# Where classes are rare, more of the points with their labels are of other classes.
_USUAL_RATE, _USUAL_SHARE = 0.1, 0.5
_CLASS_SHARE, _CLASS_POINTS = 3.0, 30.0
_MAX_ITERS, _TOLERANCE = 200, 1e-6
_MAX_POINTS, _BLOCK = 50_000, 16_384  # of [points, classes] in memory, besides logits


class LabelNoise(NamedTuple):
    """What is known of the true labels of N points of C classes."""

    likeliest: np.ndarray  # int64 [N], the true label
    wrong: np.ndarray  # float64 [N], probability that the given label is wrong
    counts: np.ndarray  # float64 [C, C], points by given label (row) and true label


def estimate(
    logits: np.ndarray,
    labels: np.ndarray,
    clean_logits: np.ndarray,
    clean_labels: np.ndarray,
) -> LabelNoise:
    """Returns what the images and the given labels say of the true labels.

    With l_i(y) the calibrated likelihood p(x_i | y), up to a factor of the point, and
    Q[g, y] the number of points of true label y that were given g,

        p(y | x_i, g_i) = l_i(y) Q[g_i, y] / sum_y' l_i(y') Q[g_i, y'],

    where Q is the sum of these over the points given g: expectation maximisation, with
    the priors above, over at most 50,000 of the points.

    Args:
      logits: of the train points, [N, C].
      labels: as given, ints [N].
      clean_logits, clean_labels: of M points with right labels that the network has not
        learned from, [M, C] and [M]. None of them, M = 0: the logits are taken as they
        are.
    """
    calibration = _Calibration(clean_logits, clean_labels)
    step = max(1, -(-len(labels) // _MAX_POINTS))
    shares = _counts(calibration.likelihood(logits[::step]), labels[::step])
    likeliest, wrong = np.zeros(len(labels), np.int64), np.zeros(len(labels))
    counts = np.zeros_like(shares)
    for start in range(0, len(labels), _BLOCK):
        block = slice(start, start + _BLOCK)
        given = labels[block]
        probability = calibration.likelihood(logits[block]) * shares[given]
        probability /= probability.sum(axis=1, keepdims=True)
        likeliest[block] = probability.argmax(axis=1)
        wrong[block] = 1 - probability[np.arange(len(given)), given]
        np.add.at(counts, given, probability)
    return LabelNoise(likeliest, wrong, counts)


class _Calibration:
    """The likelihoods of the classes by the logits of a point."""

    def __init__(self, clean_logits: np.ndarray, clean_labels: np.ndarray):
        num_classes = clean_logits.shape[1]
        self._scale, self._bias = calibrate(clean_logits, clean_labels)
        shares = np.bincount(clean_labels, minlength=num_classes) + 1.0
        self._log_shares = np.log(shares / shares.sum())

    def likelihood(self, logits: np.ndarray) -> np.ndarray:
        """Returns l_i(y) [B, C] of logits [B, C], each row's largest 1."""
        scaled = logits * self._scale + self._bias - self._log_shares
        return np.exp(scaled - scaled.max(axis=1, keepdims=True))


def _counts(likelihood: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns Q [C, C] by expectation maximisation from likelihoods [B, C]."""
    num_classes = likelihood.shape[1]
    order = np.argsort(labels, kind="stable")
    likelihood, labels = likelihood[order], labels[order]
    present, starts = np.unique(labels, return_index=True)
    size = np.bincount(labels, minlength=num_classes)[:, None].astype(float)
    prior_size = _CLASS_SHARE * size + _CLASS_POINTS
    shares = (size[:, 0] + 1) / (size.sum() + num_classes)
    counts = size * _classes_of_labels(_USUAL_RATE, shares)
    for _ in range(_MAX_ITERS):
        joint = likelihood * counts[labels]
        joint /= joint.sum(axis=1, keepdims=True)
        found = np.zeros_like(counts)
        if len(labels):
            found[present] = np.add.reduceat(joint, starts)
        rate = 1 - np.trace(found) / max(len(labels), 1)
        rate = (rate + _USUAL_SHARE * _USUAL_RATE) / (1 + _USUAL_SHARE)
        shares = (found.sum(axis=0) + 1) / (size.sum() + num_classes)
        prior = prior_size * _classes_of_labels(rate, shares)
        last, counts = counts, (found + prior) * size / (size + prior_size)
        if np.abs(counts - last).max(initial=0) <= _TOLERANCE * len(labels):
            break
    return counts


def calibrate(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns (scale, bias [C]): softmax(scale * logits + bias) is calibrated.

    They maximise the likelihood of M clean labels (Guo et al., 2017), the scale held to
    1 and the bias to 0 by a penalty that a few points outweigh.

    Args:
      logits: [M, C].
      labels: ints [M].
    """
    num_classes = logits.shape[1]
    one_hot = np.eye(num_classes)[labels]
    penalty = np.r_[_TEMPERATURE_PENALTY, np.full(num_classes, _BIAS_PENALTY)]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits * np.exp(values[0])
        log_probability = scipy.special.log_softmax(scaled + values[1:], axis=1)
        residual = np.exp(log_probability) - one_hot
        gradient = np.r_[np.sum(residual * scaled), residual.sum(axis=0)]
        value = -np.sum(log_probability * one_hot) + penalty @ values**2 / 2
        return value, gradient + penalty * values

    start = np.zeros(num_classes + 1)
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
    return float(np.exp(found[0])), found[1:]


def _classes_of_labels(rate: float, shares: np.ndarray) -> np.ndarray:
    """Returns the classes [C] of the points given each label, a row, [C, C].

    Args:
      rate: of the labels are another class's, each as often.
      shares: of the true classes, [C], which sum to 1.
    """
    num_classes = len(shares)
    rate = min(max(rate, 1e-3), 1 - 1 / num_classes)
    others = (1 - np.eye(num_classes)) / (num_classes - 1)
    found = ((1 - rate) * np.eye(num_classes) + rate * others) * shares
    return found / found.sum(axis=1, keepdims=True)
