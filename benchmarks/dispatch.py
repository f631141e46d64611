"""Time saved by several steps a dispatch, and the cost of a loop.

    python benchmarks/dispatch.py [--json=PATH] [--repeats=7]

Milliseconds a step, over sixteen steps of `autodo` on random images of 16 x 16 x 3 with
batch 64, in programs of one, four and sixteen steps. The networks are `small_cnn`,
whose convolutions are products on CPUs, and WRN-10-1, whose convolutions are XLA's.
"""

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import common

from autodo_jax.config import apply_method, default_config
from autodo_jax.train import setup

STEPS, BATCH = 16, 64
SEVERAL = (1, 4, 16)


def steps(model: str, phase: str, several: int) -> Callable[[], Any]:
    """Returns a program that takes the first steps of a phase at each call."""
    config = default_config()
    apply_method(config, "autodo")
    config.batch_size, config.num_devices = BATCH, 1
    config.steps_per_dispatch = several
    config.augment.policy, config.augment.erase_probability = "none", 0.0
    config.data.mean, config.data.std = (0.5,) * 3, (0.25,) * 3
    config.model.name, config.model.depth, config.model.width = model, 10, 1
    parts = common.random_parts(STEPS * BATCH, 16)
    ready, state = setup.prepare(config, splits=parts)
    known: dict[str, tuple[Callable, Any]] = {
        "task": (ready.steps.task, ready.task_key),
        "hyper": (ready.steps.hyper, ready.hyper_key),
    }
    step, key = known[phase]

    def take() -> Any:
        nonlocal state
        batches = ready.feed.batches(phase, 0)
        for points in itertools.islice(batches, STEPS // several):
            state, metrics = step(state, *points, key)
        return state, metrics

    return take


def main() -> None:
    """Prints the milliseconds and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    results = []
    for model, phase in itertools.product(
        ("small_cnn", "wide_resnet"), ("task", "hyper")
    ):
        programs = {str(k): steps(model, phase, k) for k in SEVERAL}
        times = {
            name: [ms / STEPS for ms in found]
            for name, found in common.in_turns(programs, arguments.repeats).items()
        }
        listed = ", ".join(
            f"{name}: {statistics.median(found):.2f} ms"
            for name, found in times.items()
        )
        print(f"{model}, {phase} step, by steps a dispatch: {listed}", flush=True)
        results.append({"model": model, "phase": phase, "milliseconds": times})
    common.write(arguments.json, results=results)


if __name__ == "__main__":
    main()
