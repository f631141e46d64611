"""Time of a hypergradient step, and memory, against the number of train points.

    python benchmarks/scale.py [--json=PATH] [--points=10000,1000000,10000000]

The trainer's own step on random 8x8 images of ten classes: `autodo` with K = 23
hyperparameters a point, batch 128, a small network without a policy. All sizes are in
memory at once and take turns, so that a machine that slows down slows all. Bytes a
point are those of the arrays of Lambda and its optimizer.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import jax
import numpy as np

from autodo_jax.config import apply_method, default_config
from autodo_jax.data import sources
from autodo_jax.data.dataset import Dataset, Parts
from autodo_jax.train import setup

BATCH, NUM_CLASSES = 128, 10


def random_parts(num_points: int) -> Parts:
    """Random pixels and labels; a validation and a test set of 1,000."""
    rng = np.random.default_rng(0)

    def dataset(size: int) -> Dataset:
        return Dataset(
            images=rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8),
            labels=rng.integers(0, NUM_CLASSES, size, dtype=np.int32),
            ids=np.arange(size).astype(str),
            class_names=tuple("0123456789"),
        )

    return Parts(dataset(num_points), dataset(1000), dataset(1000))


class Run:
    """A trainer at its first hypergradient step."""

    def __init__(self, num_points: int):
        """Prepares random data of so many points."""
        config = default_config()
        apply_method(config, "autodo")
        config.batch_size, config.num_devices = BATCH, 1
        config.augment.policy, config.augment.crop_padding = "none", 1
        config.augment.erase_probability = 0.0
        config.model.name, config.model.widths = "small_cnn", (8, 8)
        sources.SOURCES["digits"] = lambda data, seed: random_parts(num_points)
        self.setup, self.state = setup.prepare(config)
        self.batches = self.setup.feed.batches("hyper", config.hyper.start_epoch)

    def step(self) -> float:
        """Takes a step; returns its milliseconds."""
        points = next(self.batches)
        start = time.perf_counter()
        self.state, values = self.setup.hyper_step(
            self.state, *points, self.setup.hyper_key
        )
        jax.block_until_ready((self.state, values))
        return 1e3 * (time.perf_counter() - start)

    def bytes_per_point(self) -> float:
        """Of Lambda, its second moments and last touches, with padding."""
        optimizer = self.state.hyper_optimizer_state
        arrays = jax.tree.leaves(
            (self.state.tables, optimizer.nu, optimizer.last_touch)
        )
        num_points = self.setup.plan.num_points["train"]
        return sum(array.nbytes for array in arrays) / num_points


def main() -> None:
    """Prints the table and keeps the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file to write the samples to")
    parser.add_argument("--points", default="10000,1000000,10000000")
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    runs = {int(number): Run(int(number)) for number in arguments.points.split(",")}
    times: dict[int, list[float]] = {number: [] for number in runs}
    for round_number in range(arguments.repeats + 5):
        for number, run in runs.items():
            elapsed = run.step()
            if round_number >= 5:  # The first ones compile and touch new memory.
                times[number].append(elapsed)
    medians = {number: statistics.median(found) for number, found in times.items()}
    for number, run in runs.items():
        print(
            f"{number:>10,} points: {medians[number]:.2f} ms a step, "
            f"{run.bytes_per_point():.1f} bytes a point"
        )
    ratio = max(medians.values()) / min(medians.values())
    print(f"largest over smallest time: {ratio:.2f}")
    if arguments.json:
        record = {
            "command": " ".join(["python", *sys.argv]),
            "date": time.strftime("%Y-%m-%d"),
            "device": jax.devices()[0].device_kind,
            "processor": platform.processor() or platform.machine(),
            "jax": jax.__version__,
            "batch": BATCH,
            "milliseconds": times,
            "bytes_per_point": {n: run.bytes_per_point() for n, run in runs.items()},
        }
        with open(arguments.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
