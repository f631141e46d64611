"""Whether the steps of a run fit the memory of its devices, before the first one."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from autodo_jax.data.batches.batch import Batch, Points
from autodo_jax.distributed import BY_ROWS, REPLICATED
from autodo_jax.errors import RunError
from autodo_jax.train import evaluate
from autodo_jax.train.setup import Setup
from autodo_jax.train.state import TrainState

_GIGABYTE = 1e9


def check(setup: Setup, state: TrainState) -> str | None:
    """Compiles the training steps, and compares what they need with what there is.

    The first steps of the run take the programs that this compiles.

    Args:
      setup, state: from `setup.prepare`; state and data are on the devices.

    Returns:
      A line with the devices, the memory of each, and the steps a dispatch; None where
      devices do not tell their memory, as CPUs.

    Raises:
      RunError: a step that does not fit.
    """
    device = state.step.addressable_shards[0].device
    memory = _memory(device)
    if memory is None:
        return None
    in_use, limit = memory
    needed, num_steps = 0, 1
    for phase, operands in _operands(setup, state).items():
        program = getattr(setup.steps, phase).lower(*operands).compile()
        analysis = program.memory_analysis()
        more = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        # The state is written where it lies.
        more += in_use - analysis.alias_size_in_bytes
        if more > limit:
            raise RunError(
                f"a {phase} step needs {more / _GIGABYTE:.1f} GB on each device, a "
                f"{device.device_kind} with {limit / _GIGABYTE:.1f} GB",
                "use more devices",
                "pass <config.model.dtype='bfloat16'>",
                "pass a smaller <config.batch_size>",
            )
        needed = max(needed, more)
        index = operands[1].index
        num_steps = len(index) if index.ndim > 1 else 1
    return (
        f"{len(state.step.sharding.device_set)} x {device.device_kind}, "
        f"{needed / _GIGABYTE:.2f} of {limit / _GIGABYTE:.2f} GB on each, "
        f"{num_steps} steps a dispatch"
    )


def _memory(device: jax.Device) -> tuple[int, int] | None:
    """Returns the bytes in use and the most there are; None if they are not known."""
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_in_use"], stats["bytes_limit"]


def _operands(setup: Setup, state: TrainState) -> dict[str, Any]:
    """Returns phase -> what its first step takes, shapes where a batch is not read."""
    found: dict[str, Any] = {}
    (train,) = _points(setup, state, "task")
    found["task"] = (state, train, setup.task_key)
    if setup.plan.start_epoch < setup.plan.epochs:
        train, validation = _points(setup, state, "hyper")
        if evaluate.features_are_constant(setup):
            validation = evaluate.use_features(validation, _features(setup, state))
        found["hyper"] = (state, train, validation, setup.hyper_key)
    return found


def _points(setup: Setup, state: TrainState, phase: str) -> tuple[Points, ...]:
    if not setup.config.data.stream:
        return next(iter(setup.feed.batches(phase, 0)))
    # Readers start when they are asked for a batch, and start again for another.
    by_rows = _sharding(state, BY_ROWS)
    sides = setup.data.splits.train.images.shape[1:]
    size = setup.config.batch_size
    index = np.zeros((size,), np.int32)
    batch = Batch(
        jax.ShapeDtypeStruct((size, *sides), np.uint8, sharding=by_rows),
        jax.ShapeDtypeStruct((size,), np.int32, sharding=by_rows),
        index,
    )
    return (batch,) * (2 if phase == "hyper" else 1)


def _features(setup: Setup, state: TrainState) -> Any:
    """Returns the shape of the features of all validation points."""
    (points,) = next(iter(setup.feed.batches("validation", 0)))
    one = jax.eval_shape(setup.steps.features, state.params, state.batch_stats, points)
    number = len(one) * setup.plan.length("validation")
    return jax.ShapeDtypeStruct(
        (number, *one.shape[1:]), one.dtype, sharding=_sharding(state, REPLICATED)
    )


def _sharding(state: TrainState, spec: Any) -> NamedSharding:
    sharding: Any = state.step.sharding
    return NamedSharding(sharding.mesh, spec)
