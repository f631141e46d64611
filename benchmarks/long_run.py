"""Thousands of tiny epochs: memory, open files, threads and time an epoch stay flat.

    python benchmarks/long_run.py [--json=PATH] [--epochs=3000]

Trains 64 small images by `baseline`, two steps an epoch, with metrics, TensorBoard and
checkpoints as in any run, and looks at the process after every epoch.
"""

import os
import pathlib
import statistics
import tempfile
import threading
from typing import Any

import common

from autodo_jax.config import apply_method, default_config
from autodo_jax.train import loop, setup
from autodo_jax.train.progress import EpochProgress

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Observer(EpochProgress):
    """Notes what the process holds after each epoch."""

    def __init__(self, num_epochs: int):
        """Args: the number of epochs."""
        super().__init__(num_epochs, "nothing")
        self.samples: list[dict[str, Any]] = []

    def update(self, record: dict[str, Any]) -> None:
        """Takes a sample."""
        resident = pathlib.Path("/proc/self/statm").read_text().split()[1]
        self.samples.append(
            {
                "epoch": record["epoch"],
                "megabytes": int(resident) * _PAGE / 1e6,
                "files": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "ms": 1e3 * record["seconds"],
            }
        )


def main() -> None:
    """Prints the medians of ten parts of the run."""
    parser = common.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=3000)
    arguments = parser.parse_args()
    config = default_config()
    apply_method(config, "baseline")
    config.epochs, config.batch_size, config.num_devices = arguments.epochs, 32, 1
    config.augment.policy, config.augment.erase_probability = "none", 0.0
    config.augment.crop_size = 0
    config.data.mean, config.data.std = (0.5,), (0.25,)
    config.model.name, config.model.widths = "small_cnn", (4,)
    config.hyper.start_epoch = 1
    parts = common.random_parts(64, 8, channels=1, num_classes=2)
    ready, state = setup.prepare(config, splits=parts)
    observer = Observer(config.epochs)
    with tempfile.TemporaryDirectory() as folder:
        loop.run(ready, state, pathlib.Path(folder), observer)
    size = max(1, len(observer.samples) // 10)
    print("| epochs | MB | open files | threads | ms an epoch |\n|---|---|---|---|---|")
    for start in range(0, len(observer.samples), size):
        part = observer.samples[start : start + size]
        medians = [
            statistics.median(sample[name] for sample in part)
            for name in ("megabytes", "files", "threads", "ms")
        ]
        print(f"| {start + 1}-{start + len(part)} |", end="")
        print("".join(f" {value:.0f} |" for value in medians[:3]), end="")
        print(f" {medians[3]:.1f} |", flush=True)
    common.write(arguments.json, samples=observer.samples[:: max(1, size // 10)])


if __name__ == "__main__":
    main()
