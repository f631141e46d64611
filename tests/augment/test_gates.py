"""Gates and magnitudes against their distributions and a written-out relaxation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from autodo_jax.augment import gates

NUM_DRAWS = 100_000


@pytest.mark.parametrize("probability", [0.25, 0.9])
def test_gates_open_with_their_probability(probability):
    logit = np.log(probability / (1 - probability))
    drawn = gates.sample_gates(jax.random.key(0), jnp.full((NUM_DRAWS,), logit))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert abs(float(drawn.mean()) - probability) < 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gradient_is_that_of_the_binary_concrete_variable(temperature):
    key, logits = jax.random.key(1), jnp.linspace(-2.0, 2.0, 9)
    got = jax.grad(lambda x: gates.sample_gates(key, x, temperature=temperature).sum())(
        logits
    )
    noise = np.asarray(jax.random.logistic(key, logits.shape))
    soft = scipy.special.expit((np.asarray(logits) + noise) / temperature)
    np.testing.assert_allclose(got, soft * (1 - soft) / temperature, rtol=1e-5)


def test_magnitudes_are_normal_with_half_the_unit_at_the_start():
    drawn = gates.sample_magnitudes(
        jax.random.key(2),
        jnp.zeros(NUM_DRAWS),
        mean=jnp.ones(1),
        unit=jnp.full(1, 30.0),
    )
    standard = (np.asarray(drawn) - 1) / 15
    assert scipy.stats.kstest(standard, "norm").pvalue > 0.01


def test_magnitude_gradient_is_the_reparameterized_one():
    key, logits = jax.random.key(3), jnp.linspace(-2.0, 2.0, 5)
    mean, unit = jnp.zeros(5), jnp.full(5, 2.0)
    grad = jax.grad(
        lambda x: gates.sample_magnitudes(key, x, mean=mean, unit=unit).sum()
    )(logits)
    sigma = scipy.special.expit(np.asarray(logits))
    epsilon = np.asarray(gates.sample_magnitudes(key, logits, mean=mean, unit=unit)) / (
        2 * sigma
    )
    np.testing.assert_allclose(grad, 2 * epsilon * sigma * (1 - sigma), rtol=1e-4)
