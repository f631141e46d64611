"""Rows of Lambda on four devices against plain indexing; how devices are chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from autodo_jax import distributed
from autodo_jax.distributed import AXIS, BY_ROWS, REPLICATED
from autodo_jax.errors import RunError, for_command_line

NUM_DEVICES, NUM_POINTS = 4, 18
INDEX = np.array([17, 3, -1, 3, 0, 9, 10, 4], np.int32)  # one repeated, one padding


@pytest.fixture(scope="module")
def mesh():
    return distributed.create_mesh(NUM_DEVICES)


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    whole = {"label": rng.normal(size=(NUM_POINTS, 3)), "weight": rng.normal(size=18)}
    shared = {"gate": rng.normal(size=(1, 2))}
    return {name: np.float32(table) for name, table in (whole | shared).items()}


def placed(mesh, tables):
    """The tables cut into blocks; their padding would show in any sum."""
    padded, specs = {}, {}
    for name, table in tables.items():
        rows = distributed.padded_rows(len(table), NUM_DEVICES)
        padding = [(0, rows - len(table))] + [(0, 0)] * (table.ndim - 1)
        padded[name] = np.pad(table, padding, constant_values=np.nan)
        specs[name] = REPLICATED if len(table) == 1 else BY_ROWS
    return distributed.place(mesh, padded, specs), specs


def expected_rows(table):
    if len(table) == 1:
        return np.where(INDEX[:, None] >= 0, table, 0)
    return np.where((INDEX >= 0).reshape(-1, *[1] * (table.ndim - 1)), table[INDEX], 0)


@pytest.mark.parametrize(
    ("function", "out_spec", "form"),
    [
        (distributed.gather_rows, REPLICATED, None),
        (distributed.gather_local_rows, BY_ROWS, None),
        (distributed.gather_local_rows, BY_ROWS, distributed._shard_of_sum),
        (distributed.gather_local_rows, BY_ROWS, distributed._scattered_sum),
    ],
)
def test_rows_come_from_their_owners_exactly(
    mesh, tables, function, out_spec, form, monkeypatch
):
    if form is not None:  # of another platform
        monkeypatch.setattr(distributed, "_sum_to_local_shard", form)
    blocks, specs = placed(mesh, tables)
    assert blocks["label"].sharding.shard_shape(blocks["label"].shape) == (5, 3)
    rows = distributed.spmd(function, mesh, (specs, REPLICATED), out_spec)(
        blocks, INDEX
    )
    for name, table in tables.items():
        np.testing.assert_array_equal(rows[name], expected_rows(table))


def test_each_row_has_one_owner_and_a_shared_row_is_everyones(mesh, tables):
    blocks, specs = placed(mesh, tables)

    def count(blocks, index):
        held = {
            name: distributed.positions(block, index) < len(block)
            for name, block in blocks.items()
        }
        return jax.tree.map(lambda x: jax.lax.psum(x.astype(int), AXIS), held)

    owners = distributed.spmd(count, mesh, (specs, REPLICATED), REPLICATED)(
        blocks, INDEX
    )
    is_point = (INDEX >= 0).astype(int)
    np.testing.assert_array_equal(owners["label"], is_point)
    np.testing.assert_array_equal(owners["gate"], NUM_DEVICES * is_point)


def test_parts_of_a_batch_put_together_are_the_batch(mesh):
    x = np.arange(16.0).reshape(8, 2)

    def there_and_back(x):
        part = distributed.local_shard(x)
        assert part.shape == (2, 2)
        return distributed.all_gather(part)

    back = distributed.spmd(there_and_back, mesh, (REPLICATED,), REPLICATED)(x)
    np.testing.assert_array_equal(back, x)


def test_a_batch_that_cannot_be_shared_is_refused(mesh):
    run = distributed.spmd(distributed.local_shard, mesh, (REPLICATED,), BY_ROWS)
    with pytest.raises(ValueError, match="4 devices cannot share 6 points"):
        run(jnp.zeros(6))


def test_mean_is_that_of_the_devices(mesh):
    x = np.array([1, 2, 3, 10], np.float32)
    run = distributed.spmd(
        lambda x: distributed.mean(x[0]), mesh, (BY_ROWS,), REPLICATED
    )
    assert run(x) == 4


def test_place_keeps_keys_and_puts_arrays_where_the_specs_say(mesh):
    key = jax.random.key(3)
    placed_key, rows = distributed.place(
        mesh, (key, np.arange(8)), (REPLICATED, PartitionSpec(AXIS))
    )
    assert jax.random.bits(placed_key) == jax.random.bits(key)
    assert placed_key.sharding.is_fully_replicated
    assert len(rows.addressable_shards) == NUM_DEVICES
    np.testing.assert_array_equal(rows, np.arange(8))


@pytest.mark.parametrize(
    ("num_rows", "num_devices", "expected"),
    [(1, 8, 1), (18, 4, 20), (16, 4, 16), (5, 4, 8), (2, 1, 2), (9, 8, 16)],
)
def test_tables_are_padded_to_equal_blocks_of_two_rows_or_more(
    num_rows, num_devices, expected
):
    assert distributed.padded_rows(num_rows, num_devices) == expected


@pytest.mark.parametrize(
    ("batch_size", "requested", "expected"),
    [(64, 0, 8), (20, 0, 5), (7, 0, 7), (11, 0, 1), (2, 0, 2), (64, 1, 1), (6, 3, 3)],
)
def test_all_devices_share_a_batch_or_as_many_as_divide_it(
    batch_size, requested, expected
):
    assert distributed.usable_devices(batch_size, requested) == expected


@pytest.mark.parametrize(
    ("batch_size", "requested", "message"),
    [
        (64, 9, "config.num_devices is 9, but there are 8 devices"),
        (
            64,
            3,
            "3 devices cannot share equally; pass --config.batch_size=63, or pass "
            "--config.batch_size=66",
        ),
        (2, 4, "cannot share equally; pass --config.batch_size=4"),
    ],
)
def test_devices_that_cannot_share_a_batch_are_refused(batch_size, requested, message):
    with pytest.raises(RunError) as raised:
        distributed.usable_devices(batch_size, requested)
    assert message in for_command_line(raised.value)


def test_the_norm_of_the_rows_is_that_of_numpy(mesh, tables):
    blocks, specs = placed(mesh, tables)
    norm = distributed.spmd(distributed.norm, mesh, (specs, REPLICATED), REPLICATED)
    squares = [np.sum(expected_rows(table) ** 2) for table in tables.values()]
    np.testing.assert_allclose(norm(blocks, INDEX), np.sqrt(sum(squares)), rtol=1e-6)
