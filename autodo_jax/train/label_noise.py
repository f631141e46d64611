"""Which labels are wrong: the network's probabilities, read with the clean set.

A network says p(y | x) as its training made it: too sure or unsure of itself, and with
the classes as rare as its images were. The clean set, which it has not seen the labels
of, corrects that; how often class y is given label g then follows from the train labels
themselves, as the maximum of their likelihood (Dawid and Skene, 1979; Saerens et al.,
2002, where each given label has its own shares of the classes).
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

_TEMPERATURE_PENALTY, _BIAS_PENALTY = 0.1, 1.0  # half their squares, in points
# A network that knows little says little of the rate of wrong labels: it is held to a
# usual one by half as many points as there are, and the shares behind a label to those
# of uniform noise at that rate by three times as many as have the label, and a few.
_USUAL_RATE, _USUAL_SHARE = 0.1, 0.5
_CLASS_SHARE, _CLASS_POINTS = 3.0, 30.0
_MAX_ITERS, _TOLERANCE = 200, 1e-6


class LabelNoise(NamedTuple):
    """What is known of the true labels of N points of C classes."""

    probabilities: np.ndarray  # float64 [N, C], of each true label, rows sum to 1
    counts: np.ndarray  # float64 [C, C], points by given label (row) and true label

    def is_suspect(self, labels: np.ndarray) -> np.ndarray:
        """True where another label than the given one is likeliest, [N]."""
        return self.probabilities.argmax(axis=1) != labels

    def expected_wrong(self) -> float:
        """Expected number of wrong labels."""
        return float(self.counts.sum() - np.trace(self.counts))


def estimate(
    logits: np.ndarray,
    labels: np.ndarray,
    clean_logits: np.ndarray,
    clean_labels: np.ndarray,
) -> LabelNoise:
    """Returns the probabilities of the true labels, given the images and their labels.

    With l_i(y) the calibrated likelihood p(x_i | y), up to a factor of the point, and
    Q[g, y] the number of points of true label y that were given g,

        p(y | x_i, g_i) = l_i(y) Q[g_i, y] / sum_y' l_i(y') Q[g_i, y'],

    where Q is the sum of these over the points given g: expectation maximisation, with
    the priors above.

    Args:
      logits: of the train points, [N, C].
      labels: as given, ints [N].
      clean_logits, clean_labels: of M points with right labels, [M, C] and [M].
    """
    num_classes = logits.shape[1]
    scale, bias = calibrate(clean_logits, clean_labels)
    log_likelihood = scipy.special.log_softmax(logits * scale + bias, axis=1)
    shares = np.bincount(clean_labels, minlength=num_classes) + 1.0
    log_likelihood -= np.log(shares / shares.sum())
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))

    given = np.eye(num_classes)[labels]  # [N, C]
    size = given.sum(axis=0)[:, None]
    prior_size = _CLASS_SHARE * size + _CLASS_POINTS
    counts = size * _confusion(_USUAL_RATE, num_classes)
    for _ in range(_MAX_ITERS):
        joint = likelihood * counts[labels]
        probabilities = joint / joint.sum(axis=1, keepdims=True)
        found = given.T @ probabilities
        rate = 1 - np.trace(found) / max(len(labels), 1)
        rate = (rate + _USUAL_SHARE * _USUAL_RATE) / (1 + _USUAL_SHARE)
        prior = prior_size * _confusion(rate, num_classes)
        last, counts = counts, (found + prior) * size / (size + prior_size)
        if np.abs(counts - last).max(initial=0) <= _TOLERANCE * len(labels):
            break
    return LabelNoise(probabilities, found)


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


def _confusion(rate: float, num_classes: int) -> np.ndarray:
    """Shares [C, C] of true labels (columns) where `rate` of the labels is redrawn."""
    rate = min(max(rate, 1e-3), 1 - 1 / num_classes)
    others = (1 - np.eye(num_classes)) / (num_classes - 1)
    return (1 - rate) * np.eye(num_classes) + rate * others
