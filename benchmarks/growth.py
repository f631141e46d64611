"""Growth of the hypergradient step with N, K, C, T, batch and image size.

    python benchmarks/growth.py [--json=PATH] [--repeats=15]

The trainer's own step of `autodo` on random images, from one middle point: N = 10,000
train points of 16 x 16 x 3, C = 10 classes, six operations (K = 2 A + 1 + C = 23), T =
5 products, batch 64, a small network, no policy. One number at a time is changed, and
its values take turns.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import common
import jax

from autodo_jax.augment.affine import OPERATIONS
from autodo_jax.config import apply_method, default_config
from autodo_jax.train import setup

MIDDLE = {"N": 10_000, "A": 6, "C": 10, "T": 5, "batch": 64, "side": 16}
AXES: dict[str, tuple[int, ...]] = {
    "N": (10_000, 100_000, 1_000_000),
    "A": (2, 4, 6, 8),
    "C": (10, 100, 1000),
    "T": (0, 5, 20, 80),
    "batch": (32, 64, 128, 256),
    "side": (8, 16, 32, 64),
}


def step(values: dict[str, int]) -> Callable[[], Any]:
    """Returns a program that takes the next hypergradient step of a run."""
    config = default_config()
    apply_method(config, "autodo")
    config.batch_size, config.num_devices = values["batch"], 1
    config.steps_per_dispatch = 1
    config.augment.policy, config.augment.erase_probability = "none", 0.0
    config.augment.operations = tuple(OPERATIONS)[: values["A"]]
    config.data.mean, config.data.std = (0.5,) * 3, (0.25,) * 3
    config.model.name, config.model.widths = "small_cnn", (16, 32, 32)
    config.hyper.num_terms = values["T"]
    parts = common.random_parts(values["N"], values["side"], num_classes=values["C"])
    ready, state = setup.prepare(config, splits=parts)
    batches = ready.feed.batches("hyper", config.hyper.start_epoch)

    def take() -> Any:
        nonlocal state
        train, validation = next(batches)
        state, metrics = ready.steps.hyper(state, train, validation, ready.hyper_key)
        jax.block_until_ready(state)
        return metrics

    return take


def main() -> None:
    """Prints the tables and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    results = {}
    for axis, values in AXES.items():
        programs = {str(value): step(MIDDLE | {axis: value}) for value in values}
        times = common.in_turns(programs, arguments.repeats)
        medians = [statistics.median(ms) for ms in times.values()]
        slope = math.log(medians[-1] / medians[0]) / math.log(
            values[-1] / max(values[0], 1)
        )
        listed = ", ".join(
            f"{value}: {ms:.1f} ms" for value, ms in zip(values, medians, strict=True)
        )
        print(f"{axis:>5}: {listed}; as {axis}^{slope:.2f}", flush=True)
        results[axis] = times
    common.write(arguments.json, middle=MIDDLE, milliseconds=results)


if __name__ == "__main__":
    main()
