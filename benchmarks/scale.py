"""Time of a hypergradient step, and memory, against the number of train points.

    python benchmarks/scale.py [--json=PATH] [--points=10000,1000000,10000000]

The trainer's own step on random 8x8 images of ten classes: `autodo` with K = 23
hyperparameters a point, batch 128, a small network without a policy. All sizes are in
memory at once and take turns, so that a machine that slows down slows all. Bytes a
point are those of the arrays of Lambda and its optimizer.
"""

import statistics
import time

import common
import jax

from autodo_jax.config import apply_method, default_config
from autodo_jax.train import setup

BATCH = 128


class Run:
    """A trainer at its first hypergradient step."""

    def __init__(self, num_points: int):
        """Prepares random data of `num_points` train points."""
        config = default_config()
        apply_method(config, "autodo")
        config.batch_size, config.num_devices = BATCH, 1
        config.steps_per_dispatch = 1
        config.augment.policy, config.augment.crop_padding = "none", 1
        config.augment.erase_probability = 0.0
        config.model.name, config.model.widths = "small_cnn", (8, 8)
        parts = common.random_parts(num_points, 8, channels=1)
        self.setup, self.state = setup.prepare(config, splits=parts)
        self.batches = self.setup.feed.batches("hyper", config.hyper.start_epoch)

    def step(self) -> float:
        """Takes a step; returns its milliseconds."""
        points = next(self.batches)
        start = time.perf_counter()
        train, validation = points
        self.state, values = self.setup.steps.hyper(
            self.state, train, validation, self.setup.hyper_key
        )
        jax.block_until_ready((self.state, values))
        return 1e3 * (time.perf_counter() - start)

    def bytes_per_point(self) -> float:
        """Returns bytes of Lambda, second moments and last touches, with padding."""
        optimizer = self.state.hyper_optimizer_state
        arrays = jax.tree.leaves(
            (self.state.tables, optimizer.nu, optimizer.last_touch)
        )
        num_points = self.setup.plan.num_points["train"]
        return sum(array.nbytes for array in arrays) / num_points


def main() -> None:
    """Prints the table and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--points", default="10000,1000000,10000000")
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    runs = {int(number): Run(int(number)) for number in arguments.points.split(",")}
    times: dict[int, list[float]] = {number: [] for number in runs}
    for round_number in range(arguments.repeats + 5):
        for number, run in runs.items():
            elapsed = run.step()
            if round_number >= 5:  # The first rounds compile and touch new memory.
                times[number].append(elapsed)
    medians = {number: statistics.median(found) for number, found in times.items()}
    for number, run in runs.items():
        print(
            f"{number:>10,} points: {medians[number]:.2f} ms a step, "
            f"{run.bytes_per_point():.1f} bytes a point"
        )
    ratio = max(medians.values()) / min(medians.values())
    print(f"largest over smallest time: {ratio:.2f}")
    common.write(
        arguments.json,
        batch=BATCH,
        milliseconds=times,
        bytes_per_point={n: run.bytes_per_point() for n, run in runs.items()},
    )


if __name__ == "__main__":
    main()
