"""Lambda at its start against the paper's statements about it (Sec. 4)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from autodo_jax.augment import gates
from autodo_jax.hyperparams import state

LABELS = np.array([2, 0, 1, 2])


@pytest.mark.parametrize("num_classes", [3, 10, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_initial_soft_labels_are_label_smoothing(num_classes, alpha):
    tables = state.init(
        LABELS, num_classes=num_classes, soft_labels=True, smoothing=alpha
    )
    smoothed = (1 - alpha) * np.eye(num_classes)[LABELS] + alpha / num_classes
    # In float64: XLA's float32 sum over 1,000 classes alone is off by 2e-6.
    exact = scipy.special.softmax(np.asarray(tables["label"], np.float64), axis=1)
    np.testing.assert_allclose(exact, smoothed, atol=1e-6)
    got = np.exp(state.log_soft_labels(tables["label"]))
    np.testing.assert_allclose(got, exact, atol=1e-6 if num_classes < 1000 else 5e-6)


def test_initial_weights_are_one_and_stay_positive():
    tables = state.init(LABELS, num_classes=3, weights=True)
    np.testing.assert_allclose(state.loss_weights(tables["weight"]), 1, atol=1e-6)
    assert state.loss_weights(jnp.float32(-20)) > 0


def test_initial_gates_are_open_a_quarter_of_the_time():
    tables = state.init(
        np.zeros(20_000, int), num_classes=3, augment="per_point", num_operations=5
    )
    opened = gates.sample_gates(jax.random.key(0), tables["gate"])
    assert opened.size == 100_000
    assert abs(float(opened.mean()) - 0.25) < 0.01
    np.testing.assert_array_equal(jax.nn.sigmoid(tables["magnitude"]), 0.5)


def test_tables_are_those_in_use():
    assert state.init(LABELS, num_classes=3) == {}
    shared = state.init(LABELS, num_classes=3, augment="shared")
    assert {name: table.shape for name, table in shared.items()} == {
        "gate": (1, 6),
        "magnitude": (1, 6),
    }
    with pytest.raises(ValueError, match="'per_point', 'shared' or 'none', got 'all'"):
        state.init(LABELS, num_classes=3, augment="all")
