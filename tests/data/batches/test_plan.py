"""What each step of a run sees: a function of the seed, the phase and the epoch."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.data.batches.batch import take
from autodo_jax.data.batches.plan import (
    BatchPlan,
    sequential_order,
    shuffled_order,
)
from autodo_jax.data.batches.resident import ResidentBatches


def test_a_pass_visits_each_point_at_most_once():
    order = shuffled_order(53, 8, 6, seed=(0, 1, 2))
    assert order.shape == (6, 8)
    assert len(np.unique(order)) == 48


def test_more_steps_than_a_pass_begin_another_permutation():
    order = shuffled_order(20, 8, 5, seed=(0, 0, 0))
    assert order.shape == (5, 8)
    assert len(np.unique(order[:2])) == 16 and len(np.unique(order[2:4])) == 16
    assert not np.array_equal(order[:2], order[2:4])


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_stream_and_epoch_each_make_another_order(other):
    first, same = (shuffled_order(99, 9, 11, seed=(0, 0, 0)) for _ in range(2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, shuffled_order(99, 9, 11, seed=other))


def test_sequential_order_pads_the_last_batch():
    order = sequential_order(5, 3)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, [[0, 1, 2], [3, 4, -1]])
    np.testing.assert_array_equal(sequential_order(4, 2), [[0, 1], [2, 3]])


def test_a_shuffled_order_cannot_be_changed_by_who_reads_it():
    order = shuffled_order(20, 8, 5, seed=(0, 0, 0))
    assert order.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 0


def test_take_gathers_points_with_their_index():
    images = jnp.arange(4, dtype=jnp.uint8)[:, None, None, None]
    batch = take(images, jnp.array([5, 6, 7, 8]), jnp.array([2, -1]))
    np.testing.assert_array_equal(batch.label, [7, 5])
    np.testing.assert_array_equal(batch.image[:, 0, 0, 0], [2, 0])
    np.testing.assert_array_equal(batch.index, [2, -1])


def create(**changed):
    plan = BatchPlan(
        num_points={"train": 23, "validation": 9, "test": 14},
        batch_size=4,
        eval_batch_size=10,
        num_devices=4,
        epochs=4,
        start_epoch=2,
        seed=3,
    )
    return dataclasses.replace(plan, **changed)


def test_an_epoch_has_hyper_steps_from_the_start_epoch_on():
    before = ("task", "validation", "test")
    after = ("task", "hyper", "validation", "test")
    result = ("train", "validation", "test")
    for start_epoch in (0, 2, 4):  # 4: without hyperparameters
        plan = create(start_epoch=start_epoch)
        for epoch in range(4):
            assert plan.phases(epoch) == (before if epoch < start_epoch else after)
        assert plan.phases(4) == result


def assert_equal(order, other):
    assert order.keys() == other.keys()
    for part in order:
        np.testing.assert_array_equal(order[part], other[part])


def test_lengths_are_those_of_the_orders():
    for plan in (create(), create(eval_batch_size=1), create(num_devices=3)):
        for phase in ("task", "hyper", "validation", "test", "train"):
            for order in plan.order(phase, 3).values():
                assert order.dtype == np.int32
                assert len(order) == plan.length(phase) > 0
    assert create().num_steps == create().length("hyper") == 23 // 4


@pytest.mark.parametrize(
    ("phase", "parts"), [("task", {"train"}), ("hyper", {"train", "validation"})]
)
def test_steps_see_whole_batches_of_their_parts(phase, parts):
    order = create().order(phase, 2)
    assert order.keys() == parts
    for part, index in order.items():
        assert index.shape == (5, 4)
        assert index.min() >= 0 and index.max() < create().num_points[part]
        assert all(len(set(batch)) == 4 for batch in index)
    assert len(np.unique(order["train"])) == 20


def test_steps_visit_every_point_in_the_end():
    plan = create()
    for phase, parts in (("task", ["train"]), ("hyper", ["train", "validation"])):
        orders = [plan.order(phase, epoch) for epoch in range(30)]
        for part in parts:
            seen = np.unique([order[part] for order in orders])
            np.testing.assert_array_equal(seen, np.arange(plan.num_points[part]))


def test_the_order_is_a_function_of_seed_phase_and_epoch():
    plan = create()
    for phase in ("task", "hyper"):
        order = plan.order(phase, 2)
        shuffled_order.cache_clear()
        # It depends neither on the machine nor on the length of the run.
        same = create(num_devices=2, eval_batch_size=6, epochs=9, start_epoch=1)
        assert_equal(order, same.order(phase, 2))
        for other in (plan.order(phase, 1), create(seed=4).order(phase, 2)):
            for part in order:
                assert not np.array_equal(order[part], other[part])
    orders = [plan.order("task", 2)["train"], *plan.order("hyper", 2).values()]
    for order, other in itertools.combinations(orders, 2):
        assert not np.array_equal(order, other)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("eval_batch_size", [1, 10, 1000])
@pytest.mark.parametrize("phase", ["validation", "test", "train"])
def test_an_evaluation_sees_all_points_once(num_devices, eval_batch_size, phase):
    plan = create(num_devices=num_devices, eval_batch_size=eval_batch_size)
    num_points = plan.num_points[phase]
    ((part, index),) = plan.order(phase, 0).items()
    assert part == phase
    flat = index.ravel()
    np.testing.assert_array_equal(flat[:num_points], np.arange(num_points))
    assert np.all(flat[num_points:] == -1)
    assert index.shape[1] % num_devices == 0
    # No more than it takes for the devices, and no step of padding alone.
    assert index.shape[1] < min(eval_batch_size, num_points) + num_devices
    assert np.all(index[:, 0] >= 0)
    assert_equal(plan.order(phase, 0), plan.order(phase, 3))


@pytest.mark.parametrize("start", [0, 1, -1])
@pytest.mark.parametrize("phase", ["task", "hyper", "validation", "test", "train"])
def test_resident_data_are_selected_by_the_order(phase, start):
    plan = create()
    parts = {
        part: (np.full((count, 2, 2, 3), i, np.uint8), np.arange(count))
        for i, (part, count) in enumerate(plan.num_points.items())
    }
    start %= plan.length(phase)
    found = list(ResidentBatches(plan, parts).batches(phase, 3, start))
    assert len(found) == plan.length(phase) - start
    order = plan.order(phase, 3)
    for step, selections in enumerate(found, start):
        for selection, part in zip(selections, order, strict=True):
            assert selection.images is parts[part][0]  # Nothing is copied.
            assert selection.labels is parts[part][1]
            np.testing.assert_array_equal(selection.index, order[part][step])


@pytest.mark.parametrize("num_steps", [2, 4, 100])
@pytest.mark.parametrize("phase", ["task", "hyper", "validation"])
def test_num_steps_steps_at_once_end_with_what_is_left(phase, num_steps):
    """Evaluations take one at a time."""
    plan = create()
    parts = {
        part: (np.zeros((count, 1, 1, 1), np.uint8), np.zeros(count, np.int32))
        for part, count in plan.num_points.items()
    }
    start = plan.length(phase) // 2
    feed = ResidentBatches(plan, parts, steps_per_dispatch=num_steps)
    found = [selection.index for selection, *_ in feed.batches(phase, 0, start)]
    if phase == "validation":
        found = [index[None] for index in found]
    part = "validation" if phase == "validation" else "train"
    np.testing.assert_array_equal(
        np.concatenate(found), plan.order(phase, 0)[part][start:]
    )
    most = 1 if phase == "validation" else num_steps
    assert {len(index) for index in found[:-1]} <= {most} and len(found[-1]) <= most


def test_resident_data_have_no_step_behind_the_last():
    feed = ResidentBatches(create(), {"train": (np.zeros(1), np.zeros(1))})
    assert list(feed.batches("task", 0, start=create().num_steps)) == []


@pytest.mark.parametrize(
    ("num_clean", "num_devices", "size"),
    [(16, 1, 16), (6, 1, 6), (6, 4, 4), (16, 8, 16), (64, 8, 64), (99, 1, 64)],
)
def test_few_clean_points_make_smaller_steps_of_them_alone(
    num_clean, num_devices, size
):
    plan = BatchPlan(
        num_points={"train": 200, "validation": num_clean, "test": 5, "fit": num_clean},
        batch_size=64,
        eval_batch_size=64,
        num_devices=num_devices,
        epochs=2,
        start_epoch=1,
        seed=0,
    )
    order = plan.order("hyper", 1)
    assert order["train"].shape == (3, 64) and order["validation"].shape == (3, size)
    assert plan.order("task", 1)["fit"].shape == (3, size)
    assert all(len(set(row)) == size for row in order["validation"].tolist())
