"""Programs compiled for accelerators that are not there, and what is read from them.

libtpu compiles for TPUs on any machine (`pip install 'autodo_jax[aot]'`), and the CUDA
plugin for GPUs. Nothing is run: memory, FLOPs and collectives are those of the program.
"""

import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autodo_jax.distributed import AXIS

COLLECTIVES = (
    "all-reduce",
    "reduce-scatter",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_BITS = re.compile(r"\d+")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
# Not arrays of their own.
_NAMES = {"parameter", "get-tuple-element", "tuple", "while", "bitcast", "conditional"}


def mesh(topology: str) -> Mesh:
    """Returns the mesh of chips that need not be there.

    Args:
      topology: "v5e:2x4", "v4:2x2x1" and the like, one of libtpu's; or a GPU of
        `benchmarks/targets`, "h100" or "h100x8".

    Raises:
      Exception: libtpu, or JAX's CUDA plugin, is not installed, or does not know it.
    """
    if ":" not in topology:
        return _gpus(topology)
    # Of the machine that compiles, which libtpu would ask its host for; and a lock,
    # which a second process would not get.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    options = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(sides) == 1 else {}
    found = topologies.get_topology_desc(topology, "tpu", **options)
    devices: list[jax.Device] = list(found.devices)
    devices = sorted(devices, key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(devices), (AXIS,))


def _gpus(name: str) -> Mesh:
    kind, _, count = name.partition("x")
    target = pathlib.Path(__file__).parent / "targets" / f"{kind}.txtpb"
    found = topologies.get_topology_desc(
        "", "cuda", target_config=target.read_text(), topology=f"1x1x{count or 1}"
    )
    return Mesh(np.array(list(found.devices)), (AXIS,))


def operand(
    mesh: Mesh, shape: tuple[int, ...], dtype: Any = np.float32
) -> jax.ShapeDtypeStruct:
    """Returns an argument of a program, on every device of a mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def compile(
    function: Callable, *operands: Any, donate: tuple[int, ...] = ()
) -> jax.stages.Compiled:
    """Returns the program of a function for the devices of its operands."""
    return jax.jit(function, donate_argnums=donate).lower(*operands).compile()


def memory(program: jax.stages.Compiled) -> Any:
    """Returns the bytes of a program on each device, as JAX analyses them.

    Raises:
      ValueError: the compiler does not say.
    """
    found = program.memory_analysis()
    if found is None:
        raise ValueError("the compiler says nothing of memory")
    return found


class Array(NamedTuple):
    """An array of a program, outside its fused loops."""

    operation: str
    shape: str  # "f32[8,32]{1,0:T(8,128)}"
    nbytes: int
    padded_nbytes: int  # in tiles, as a TPU holds it


def arrays(program: jax.stages.Compiled) -> list[Array]:
    """Returns the arrays of a program, the largest first, each shape once."""
    found: dict[tuple[str, str], Array] = {}
    for computation, operation, shape, _ in _instructions(_text(program)):
        if "fused" in computation or operation in _NAMES:
            continue
        for match in _SHAPE.finditer(shape):
            sizes = _nbytes(*match.groups())
            array = Array(operation, match[0], *sizes)
            found[operation, match[0]] = array
    return sorted(found.values(), key=lambda array: -array.padded_nbytes)


def copies(program: jax.stages.Compiled, at_least: int) -> list[Array]:
    """Returns the arrays of at least so many bytes that a program only moves.

    Not the prefetch of what fits into a TPU's fast memory, S(1), in the background.
    """
    moves = ("copy", "transpose", "reshape")
    return [a for a in arrays(program) if a.operation in moves and a.nbytes >= at_least]


def collectives(program: jax.stages.Compiled) -> dict[str, tuple[int, int]]:
    """Returns kind -> (number, bytes that each device gives) of what is exchanged.

    Of a loop, once.
    """
    found: dict[str, tuple[int, int]] = {}
    for _, operation, shape, _ in _instructions(_text(program)):
        kind = operation.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        parts = [_nbytes(*match.groups())[0] for match in _SHAPE.finditer(shape)]
        if operation != kind and kind != "all-reduce" and len(parts) > 1:
            parts = parts[len(parts) // 2 :]  # What is given comes before the result.
        number, nbytes = found.get(kind, (0, 0))
        found[kind] = (number + 1, nbytes + sum(parts))
    return found


def moved(program: jax.stages.Compiled) -> int:
    """Returns the bytes that the instructions outside fused loops read and write.

    Arrays count with their padding, instructions of a loop as often as it runs, where
    that is known. Of a gather, a scatter or an update of a slice the largest array does
    not count: it is touched in a few places. (The compiler's own "bytes accessed" does
    count it, and much that happens within a fused loop.)
    """
    text = _text(program)
    sizes: dict[str, int] = {}
    found: list[tuple[str, str, list[int]]] = []
    times: dict[str, tuple[str, int]] = {}  # body -> (computation of its loop, passes)
    for computation, operation, shape, line in _instructions(text):
        name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
        name = name.removeprefix("%")
        parts = [_nbytes(*match.groups())[1] for match in _SHAPE.finditer(shape)]
        sizes[name] = sum(parts)
        if operation == "while":
            body = re.search(r"body=%?([\w.\-]+)", line)
            passes = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            if body:
                times[body[1]] = computation, int(passes[1]) if passes else 1
        if "fused" in computation or operation in (*_NAMES, "constant", "call"):
            continue
        arguments = rest.partition(f" {operation}(")[2].partition(")")[0]
        used = [sizes.get(a, 0) for a in re.findall(r"%([\w.\-]+)", arguments)]
        touched = [*parts, *used]
        if name.startswith(("gather", "scatter", "dynamic")):
            largest = max(touched, default=0)
            touched = [size for size in touched if size < largest]
        found.append((computation, operation, touched))

    def passes_of(computation: str) -> int:
        if computation not in times:
            return 1
        outside, passes = times[computation]
        return passes * passes_of(outside)

    return sum(passes_of(where) * sum(touched) for where, _, touched in found)


def dtypes(program: jax.stages.Compiled) -> set[str]:
    """Returns the types of the arrays of a program, "f32" and the like."""
    return {
        match[1]
        for _, _, shape, _ in _instructions(_text(program))
        for match in _SHAPE.finditer(shape)
    }


def cycles(program: jax.stages.Compiled) -> int:
    """Returns XLA's own estimate for a TPU; of a loop, of one pass."""
    found = re.findall(r'"estimated_cycles":"(\d+)"', _text(program))
    return sum(map(int, found))


def operations(program: jax.stages.Compiled) -> dict[str, int]:
    """Returns operation -> how often it occurs in the text of a program."""
    counts: dict[str, int] = {}
    for _, operation, _, _ in _instructions(_text(program)):
        counts[operation] = counts.get(operation, 0) + 1
    return counts


def _text(program: jax.stages.Compiled) -> str:
    return program.as_text() or ""


def _instructions(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yields (computation, operation, shape, line) of each instruction."""
    computation = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            head = _COMPUTATION.match(line)
            computation = head[2] if head else computation
            continue
        match = _INSTRUCTION.match(line)
        if match:
            yield computation, match[3], match[2], line


def _nbytes(dtype: str, sides: str, layout: str, tiling: str) -> tuple[int, int]:
    """Returns the bytes of an array, without and with the padding of its tiles."""
    shape = [int(side) for side in sides.split(",") if side]
    bits = _BITS.search(dtype)
    width = max(1, int(bits[0]) // 8) if bits else 1
    size = math.prod(shape) * width
    tile = re.match(r"T\(([\d,]+)\)", tiling or "")
    if not (layout and tile and shape):
        return size, size
    order = [int(axis) for axis in layout.split(",")]
    for axis, multiple in zip(order, reversed(tile[1].split(",")), strict=False):
        shape[axis] = -(-shape[axis] // int(multiple)) * int(multiple)
    return size, math.prod(shape) * width
