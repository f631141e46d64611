"""Differentiable affine augmentation against vmapped `dm_pix.affine_transform`.

    python benchmarks/augment.py [--json=PATH]

Both warp the same images by the same composed map of the six operations, forward alone
and with the gradient in the six magnitudes of each image. The two take turns,
so that a machine that slows down slows both; the ratio of medians is what counts.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax.augment import affine

OPERATIONS = ("rotate", "scale", "translate_x", "translate_y", "shear_x", "shear_y")
SIZES = ((128, 32), (16, 224))


def warp_dm_pix(images: jax.Array, pull_map: jax.Array) -> jax.Array:
    """The map of `affine.resample` by dm-pix, in its (y, x, channel) coordinates."""

    def one(image, matrix):
        centre = (jnp.array(image.shape[:2]) - 1) / 2
        linear = matrix[:2, :2][::-1, ::-1]
        offset = matrix[:2, 2][::-1] + centre - linear @ centre
        return dm_pix.affine_transform(
            image,
            jnp.eye(3).at[:2, :2].set(linear),
            offset=jnp.append(offset, 0.0),
            mode="nearest",
        )

    return jax.vmap(one)(images, pull_map)


WARPS: dict[str, Callable] = {"autodo_jax": affine.resample, "dm-pix": warp_dm_pix}


def programs(warp: Callable, size: int) -> dict[str, Callable]:
    """Compiled forward pass, and forward and backward pass, of one warp."""

    def forward(images, magnitudes, weights):
        del weights
        return warp(images, affine.compose(OPERATIONS, magnitudes, (size, size)))

    def scalar(images, magnitudes, weights):
        return jnp.vdot(weights, forward(images, magnitudes, None))

    return {
        "forward": jax.jit(forward),
        "forward+backward": jax.jit(jax.value_and_grad(scalar, 1)),
    }


def measure(batch: int, size: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each program of each warp, in rounds."""
    rng = np.random.default_rng(0)
    images = rng.random((batch, size, size, 3), np.float32)
    mean = np.array([affine.OPERATIONS[name].mean for name in OPERATIONS])
    unit = np.array([affine.OPERATIONS[name].range for name in OPERATIONS])
    noise = rng.normal(size=(batch, len(OPERATIONS)))
    magnitudes = (mean + 0.5 * unit * noise).astype(np.float32)
    operands = jax.device_put((images, magnitudes, np.ones_like(images)))
    compiled = {name: programs(warp, size) for name, warp in WARPS.items()}
    outputs = {name: parts["forward"](*operands) for name, parts in compiled.items()}
    ours, theirs = outputs.values()
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    times: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in parts} for name, parts in compiled.items()
    }
    for round_number in range(repeats + 1):
        for name, parts in compiled.items():
            for part, program in parts.items():
                start = time.perf_counter()
                jax.block_until_ready(program(*operands))
                if round_number:  # The first compiles.
                    elapsed = time.perf_counter() - start
                    times[name][part].append(1e3 * elapsed)
    return times


def main() -> None:
    """Prints the table and keeps the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file to write the samples to")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    results = []
    for batch, size in SIZES:
        times = measure(batch, size, arguments.repeats)
        for part in ("forward", "forward+backward"):
            medians = {
                name: statistics.median(parts[part]) for name, parts in times.items()
            }
            ours, theirs = medians.values()
            print(
                f"{batch} x {size} x {size} x 3, {part}: autodo_jax {ours:.2f} ms, "
                f"dm-pix {theirs:.2f} ms, {theirs / ours:.1f} times faster"
            )
        results.append({"batch": batch, "size": size, "milliseconds": times})
    if arguments.json:
        record = {
            "command": " ".join(["python", *sys.argv]),
            "date": time.strftime("%Y-%m-%d"),
            "device": jax.devices()[0].device_kind,
            "processor": platform.processor() or platform.machine(),
            "jax": jax.__version__,
            "results": results,
        }
        with open(arguments.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
