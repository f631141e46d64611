"""Steps reach the rows of the data set and of Lambda in place: nothing is copied."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax import distributed
from autodo_jax.data.batches.batch import take
from autodo_jax.distributed import BY_ROWS, REPLICATED
from autodo_jax.hyperparams.row_rmsprop import RowRMSpropState, row_rmsprop
from benchmarks import abstract_run, compiled

BATCH, MEGABYTE = 256, 1_000_000


@pytest.mark.parametrize(
    ("number", "sides"), [(604_388, (32, 32, 3)), (60_000, (28, 28, 1))]
)
def test_a_batch_of_small_images_is_taken_without_a_copy_of_the_set(
    chip, number, sides
):
    rows, image_shape = abstract_run.packed(number, sides)
    program = compiled.compile(
        lambda images, labels, index: take(images, labels, index, image_shape).image,
        compiled.operand(chip, rows.shape, np.uint8),
        compiled.operand(chip, (number,), np.int32),
        compiled.operand(chip, (BATCH,), np.int32),
    )
    assert image_shape is not None
    assert not compiled.copies(program, number * np.prod(sides))
    assert compiled.memory(program).temp_size_in_bytes < 10 * MEGABYTE


def test_so_is_a_batch_of_large_images(chip):
    number, sides = 20_000, (256, 256, 3)
    rows, image_shape = abstract_run.packed(number, sides)
    assert rows.shape == (number, *sides) and image_shape is None
    program = compiled.compile(
        lambda *points: take(*points).image,
        compiled.operand(chip, rows.shape, np.uint8),
        compiled.operand(chip, (number,), np.int32),
        compiled.operand(chip, (BATCH,), np.int32),
    )
    assert compiled.memory(program).temp_size_in_bytes < 10 * MEGABYTE


def update(tables, state, grads, index):
    """Gathers the rows of a batch and updates them, as a hyper step does."""
    rows = distributed.gather_rows(tables, index)
    positions = {
        name: distributed.positions(table, index) for name, table in tables.items()
    }
    tables, state = row_rmsprop().update(tables, state, grads, positions, 0.1)
    return tables, state, rows


def compile_update(mesh, num_points, columns):
    number = distributed.padded_rows(num_points, mesh.size)
    shapes = {"label": jax.ShapeDtypeStruct((number, columns), np.float32)}
    state = jax.eval_shape(row_rmsprop().init, shapes)
    by_rows = {"label": BY_ROWS}
    state_specs: Any = RowRMSpropState(REPLICATED, by_rows, by_rows)
    specs = by_rows, state_specs
    both = shapes, state
    formats = distributed.formats(mesh, specs, both)
    placed = jax.tree.map(
        lambda x, form: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=form),
        both,
        formats,
    )
    step: Any = distributed.spmd(
        update,
        mesh,
        in_specs=(*specs, REPLICATED, REPLICATED),
        out_specs=(*specs, REPLICATED),
        donate=(0, 1),
        in_shardings=(*formats, None, None),
        out_shardings=(*formats, None),
    )
    grads = {"label": compiled.operand(mesh, (BATCH, columns))}
    index = compiled.operand(mesh, (BATCH,), np.int32)
    return step.lower(*placed, grads, index).compile()


@pytest.mark.parametrize(
    ("num_points", "columns"),
    [
        (22_000, 10),
        (250_000, 6),
        (500_000, 10),
        (500_000, 64),
        (500_000, 100),
        (500_000, 1000),
    ],
)
def test_a_step_touches_the_rows_of_its_batch_only(chip, num_points, columns):
    program = compile_update(chip, num_points, columns)
    memory = compiled.memory(program)
    assert not compiled.copies(program, num_points * columns * 4)
    assert memory.temp_size_in_bytes < 10 * MEGABYTE
    # The tables and their second moments are written in place.
    assert memory.alias_size_in_bytes >= 2 * num_points * columns * 4


@pytest.mark.parametrize("columns", [6, 1000])
def test_nor_does_any_of_eight_chips_copy_its_block_of_imagenet(eight_chips, columns):
    program = compile_update(eight_chips, 563_713, columns)
    assert not compiled.copies(program, 563_713 // 8 * columns * 4)
    assert compiled.memory(program).temp_size_in_bytes < 20 * MEGABYTE
    kinds = compiled.collectives(program)
    assert kinds.keys() == {"all-reduce"}
    assert kinds["all-reduce"][1] <= BATCH * columns * 4 * 1.01


def test_the_default_layout_is_copied(chip):
    """So the test can fail: the table without `distributed.formats`."""

    def rows(table, index):
        return table.at[index].set(1 + table[index], mode="drop")

    program = compiled.compile(
        rows,
        compiled.operand(chip, (500_000, 1000)),
        compiled.operand(chip, (BATCH,), np.int32),
        donate=(0,),
    )
    assert compiled.copies(program, 500_000 * 1000 * 4)
    images = compiled.compile(
        lambda images, index: jnp.asarray(images)[index],
        compiled.operand(chip, (50_000, 32, 32, 3), np.uint8),
        compiled.operand(chip, (BATCH,), np.int32),
    )
    assert compiled.copies(images, 50_000 * 3072)
