"""One program on many devices: the mesh, and who owns which row.

The step functions are written for one device and its share of the batch. They average
over AXIS, the only axis of the mesh, and run under `spmd` or `jax.pmap` alike.

Row ownership: a table of Lambda with a row for each train point is cut into equal
blocks, one a device, padded at its end. A table of a single row, the shared
augmentation, is on every device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autodo_jax._typing import PyTree
from autodo_jax.errors import RunError

AXIS = "data"
REPLICATED, BY_ROWS = PartitionSpec(), PartitionSpec(AXIS)
# As tests/aot found: a TPU reaches the rows of a table in place in any layout if it has
# few columns, and so many rows that row by row, padded, it is larger than this.
_FEW_COLUMNS, _LARGE_BLOCK = 32, 1 << 27
_ROW_BY_ROW, _PADDED_ROW = Layout((0, 1)), 128 * 4  # bytes of up to 128 columns


def create_mesh(num_devices: int) -> Mesh:
    """Returns a mesh of the first devices, those of a process next to each other."""
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(devices[:num_devices]), (AXIS,))


def usable_devices(batch_size: int, requested: int) -> int:
    """Returns how many devices share each batch.

    Args:
      batch_size: points a step, B.
      requested: a number of devices, or 0 for all of them; a single process then takes
        as many as divide B.

    Raises:
      RunError: more devices than there are; a batch that cannot be shared equally.
    """
    present = jax.device_count()
    if requested > present:
        raise RunError(
            f"config.num_devices is {requested}, but there are {present} devices",
            f"pass <config.num_devices={present}> or less",
        )
    if requested and jax.process_count() > 1 and requested < present:
        raise RunError(
            f"config.num_devices is {requested}, but {jax.process_count()} processes "
            f"use all their {present} devices",
            "leave it 0 and start fewer processes",
        )
    num_devices = requested or present
    if not requested and jax.process_count() == 1:
        num_devices = max(n for n in range(1, present + 1) if batch_size % n == 0)
    if batch_size % num_devices:
        less = batch_size - batch_size % num_devices
        raise RunError(
            f"config.batch_size is {batch_size}, which {num_devices} devices cannot "
            "share equally",
            *(
                f"pass <config.batch_size={size}>"
                for size in (less, less + num_devices)
                if size
            ),
        )
    return num_devices


def padded_rows(num_rows: int, num_devices: int) -> int:
    """Returns the rows of a table cut into equal blocks of two or more rows.

    So a block is never taken for the single row of a shared table.
    """
    if num_rows == 1:
        return 1
    return num_devices * max(2, -(-num_rows // num_devices))


def shardings(mesh: Mesh, specs: PyTree) -> PyTree:
    """Returns the shardings on a mesh for a pytree of PartitionSpecs."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda spec: isinstance(spec, PartitionSpec),
    )


def is_tpu(mesh: Mesh) -> bool:
    """True of TPUs, whose arrays lie in tiles of 8 x 128 entries.

    Of the mesh, not of `jax.default_backend()`: programs are compiled for chips that
    are not there, too.
    """
    return bool(mesh.devices.flat[0].platform == "tpu")


def formats(mesh: Mesh, specs: PyTree, tree: PyTree) -> PyTree:
    """Returns how each array of a pytree lies on a mesh: its sharding and layout.

    A TPU keeps a table [N, K] column by column where that is shorter, and then reaches
    its rows through a copy of all. So tables that are cut by rows are kept row by row,
    but for those of which it makes no copy. Elsewhere, and for all other arrays, the
    layout is the default.

    Args:
      mesh: of all devices in use.
      specs: a pytree prefix of PartitionSpecs.
      tree: arrays, or what has their shapes.
    """
    shardings_of = jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda _: sharding, part),
        shardings(mesh, specs),
        tree,
    )

    def format_of(sharding: NamedSharding, leaf: Any) -> Any:
        if is_tpu(mesh) and sharding.spec == BY_ROWS and len(leaf.shape) == 2:
            rows, columns = leaf.shape[0] // mesh.size, leaf.shape[1]
            if columns > _FEW_COLUMNS or rows * _PADDED_ROW <= _LARGE_BLOCK:
                return Format(_ROW_BY_ROW, sharding)
        return sharding

    return jax.tree.map(format_of, shardings_of, tree)


def place(mesh: Mesh, tree: PyTree, spec: PyTree = REPLICATED) -> PyTree:
    """Puts arrays on the mesh; each process passes the same, whole arrays.

    Args:
      mesh: of all devices in use.
      tree: host or device arrays.
      spec: a PartitionSpec for all, or a pytree prefix of them.
    """

    def put(sharding: NamedSharding, part: PyTree) -> PyTree:
        def put_leaf(leaf: Any) -> jax.Array:
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = put_leaf(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            leaf = np.asarray(leaf)
            # Unlike device_put it does not compare the array between the processes.
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda index: leaf[index]
            )

        return jax.tree.map(put_leaf, part)

    return jax.tree.map(put, shardings(mesh, spec), tree)


def spmd(
    function: Callable,
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    *,
    donate: tuple[int, ...] = (),
    **formats: Any,
) -> Callable:
    """Returns `function`, written for one device, compiled for all of the mesh.

    Args:
      function: of one device's shards.
      mesh: of the devices.
      in_specs, out_specs: PartitionSpecs of the arguments and the results.
      donate: numbers of the arguments whose memory may be used.
      formats: in_shardings and out_shardings of `jax.jit`, for layouts that are not
        the default.
    """
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate, **formats)


def mean(tree: PyTree) -> PyTree:
    """Averages over the devices: of derivatives of local losses, never inside them."""
    return jax.lax.pmean(tree, AXIS)


def local_shard(x: chex.Array) -> chex.Array:
    """Returns this device's shard [B / devices, ...] of x [B, ...], held by all.

    Raises:
      ValueError: a length that the devices cannot share equally.
    """
    num_devices = jax.lax.axis_size(AXIS)
    if len(x) % num_devices:
        raise ValueError(f"{num_devices} devices cannot share {len(x)} points equally.")
    size = len(x) // num_devices
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size)


def all_gather(x: chex.Array) -> chex.Array:
    """Returns the shards [B / devices, ...] of all devices, joined: [B, ...]."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def positions(block: chex.Array, index: chex.Array) -> chex.Array:
    """Returns the rows in this device's block of the points `index` [B].

    `len(block)`, one past its end, for the rows that other devices own and for padding,
    -1; zero for a shared table.
    """
    num_rows = len(block)
    first = 0 if num_rows == 1 else jax.lax.axis_index(AXIS) * num_rows
    at = jnp.zeros_like(index) if num_rows == 1 else index - first
    is_owned = (index >= 0) & (at >= 0) & (at < num_rows)
    return jnp.where(is_owned, at, num_rows)


def gather_rows(blocks: Mapping[str, chex.Array], index: chex.Array) -> dict:
    """Returns the rows [B, ...] of the points `index` [B], on every device."""
    return {
        name: held if len(blocks[name]) == 1 else jax.lax.psum(held, AXIS)
        for name, held in _held_rows(blocks, index).items()
    }


def gather_local_rows(blocks: Mapping[str, chex.Array], index: chex.Array) -> dict:
    """Returns the rows [B / devices, ...] of this device's share of the batch.

    Args:
      blocks: this device's blocks of the tables.
      index: points of the whole batch, [B].
    """
    return {
        name: local_shard(held) if len(blocks[name]) == 1 else _sum_to_local_shard(held)
        for name, held in _held_rows(blocks, index).items()
    }


def norm(blocks: Mapping[str, chex.Array], index: chex.Array) -> chex.Array:
    """Returns the norm of the rows of the points `index` [B], the same everywhere."""
    first = jax.lax.axis_index(AXIS) == 0  # of all that have a shared table
    squares = [
        jnp.where(first | (len(blocks[name]) > 1), jnp.sum(held**2), 0)
        for name, held in _held_rows(blocks, index).items()
    ]
    return jnp.sqrt(jax.lax.psum(sum(squares), AXIS))


def _sum_to_local_shard(x: chex.Array) -> chex.Array:
    """Sums x [B, ...] over the devices and returns this one's shard of the rows."""
    return jax.lax.platform_dependent(x, cpu=_shard_of_sum, default=_scattered_sum)


def _shard_of_sum(x: chex.Array) -> chex.Array:
    # Between processes on CPUs (Gloo) a reduce-scatter fails where one comes 30 s late,
    # as after compiling for longer than the others; an all-reduce waits.
    return local_shard(jax.lax.psum(x, AXIS))


def _scattered_sum(x: chex.Array) -> chex.Array:
    return jax.lax.psum_scatter(x, AXIS, tiled=True)


def _held_rows(blocks: Mapping[str, chex.Array], index: chex.Array) -> dict:
    """Rows [B, ...] that this device owns; zero for the others."""
    return {
        name: block.at[positions(block, index)].get(mode="fill", fill_value=0)
        for name, block in blocks.items()
    }
