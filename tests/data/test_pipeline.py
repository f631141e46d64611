"""Orders of batches: permutations by the seed; padding that tells itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.data import pipeline


def test_a_pass_visits_each_point_at_most_once():
    order = pipeline.shuffled_order(53, 8, 6, seed=(0, 1, 2))
    assert order.shape == (6, 8)
    assert len(np.unique(order)) == 48


def test_more_steps_than_a_pass_begin_another_permutation():
    order = pipeline.shuffled_order(20, 8, 5, seed=(0, 0, 0))
    assert order.shape == (5, 8)
    assert len(np.unique(order[:2])) == 16 and len(np.unique(order[2:4])) == 16
    assert not np.array_equal(order[:2], order[2:4])


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_stream_and_epoch_each_make_another_order(other):
    first, same = (pipeline.shuffled_order(99, 9, 11, seed=(0, 0, 0)) for _ in range(2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, pipeline.shuffled_order(99, 9, 11, seed=other))


def test_sequential_order_pads_the_last_batch():
    batches = list(pipeline.sequential_order(5, 3))
    np.testing.assert_array_equal(batches, [[0, 1, 2], [3, 4, -1]])


def test_take_gathers_points_with_their_index():
    images = jnp.arange(4, dtype=jnp.uint8)[:, None, None, None]
    batch = pipeline.take(images, jnp.array([5, 6, 7, 8]), jnp.array([2, -1]))
    np.testing.assert_array_equal(batch.label, [7, 5])
    np.testing.assert_array_equal(batch.image[:, 0, 0, 0], [2, 0])
    np.testing.assert_array_equal(batch.index, [2, -1])
