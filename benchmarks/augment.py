"""Differentiable affine augmentation against dm-pix, PyTorch and kornia.

    python benchmarks/augment.py [--json=PATH] [--repeats=30]

All warp the same images by the same composed map of the six operations, forward alone
and with the gradient in the six magnitudes of each image: `affine.resample`,
`dm_pix.affine_transform` under vmap, torch's `affine_grid` with `grid_sample`, and
kornia's `warp_affine`. They take turns, so that a machine that slows down slows all of
them; compare the ratios of medians. PyTorch gets as many threads as there are cores.
"""

import statistics
from collections.abc import Callable

import common
import dm_pix
import jax
import jax.numpy as jnp
import kornia
import numpy as np
import torch

from autodo_jax.augment import affine

OPERATIONS = ("rotate", "scale", "translate_x", "translate_y", "shear_x", "shear_y")
SIZES = ((128, 32), (16, 224))
FORWARD, BOTH = "forward", "forward+backward"


def warp_dm_pix(images: jax.Array, pull_map: jax.Array) -> jax.Array:
    """Warps like `affine.resample`, by dm-pix in its (y, x, channel) coordinates."""

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


def jax_programs(warp: Callable, size: int, operands: tuple) -> dict[str, Callable]:
    """Returns a warp in JAX, compiled: forward pass, and forward and backward pass."""

    def forward(images, magnitudes):
        return warp(images, affine.compose(OPERATIONS, magnitudes, (size, size)))

    def scalar(magnitudes, images, weights):
        return jnp.vdot(weights, forward(images, magnitudes))

    images, magnitudes, weights = operands
    compiled, gradient = jax.jit(forward), jax.jit(jax.grad(scalar))
    return {
        FORWARD: lambda: compiled(images, magnitudes),
        BOTH: lambda: gradient(magnitudes, images, weights),
    }


def compose_torch(magnitudes: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the pull map of `affine.compose`, [B, 3, 3], written out in PyTorch."""
    angle, zoom, x, y, shear_x, shear_y = magnitudes.unbind(1)
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    shrink = 1 / torch.clamp(zoom, min=0.1)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)

    def matrix(*entries):
        return torch.stack(entries, -1).reshape(-1, 3, 3)

    maps = [
        matrix(cos, -sin, zero, sin, cos, zero, zero, zero, one),
        matrix(shrink, zero, zero, zero, shrink, zero, zero, zero, one),
        matrix(one, zero, -x * size, zero, one, zero, zero, zero, one),
        matrix(one, zero, zero, zero, one, -y * size, zero, zero, one),
        matrix(one, -shear_x, zero, zero, one, zero, zero, zero, one),
        matrix(one, zero, zero, -shear_y, one, zero, zero, zero, one),
    ]
    total = maps[0]
    for pull_map in maps[1:]:
        total = total @ pull_map
    return total


def warp_grid_sample(images: torch.Tensor, pull_map: torch.Tensor) -> torch.Tensor:
    """Warps in torch's coordinates, where a square image extends over [-1, 1]."""
    shift = pull_map[:, :2, 2:] * (2 / images.shape[-1])
    theta = torch.cat([pull_map[:, :2, :2], shift], 2)
    grid = torch.nn.functional.affine_grid(
        theta, list(images.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        images, grid, padding_mode="border", align_corners=False
    )


def warp_kornia(images: torch.Tensor, pull_map: torch.Tensor) -> torch.Tensor:
    """Warps by kornia, which takes the inverse map, in pixels from the corner."""
    size = images.shape[-1]
    centre = torch.full((2,), (size - 1) / 2)
    linear = torch.linalg.inv(pull_map[:, :2, :2])
    shift = centre - (linear @ (centre + pull_map[:, :2, 2]).unsqueeze(-1)).squeeze(-1)
    push = torch.cat([linear, shift.unsqueeze(-1)], 2)
    return kornia.geometry.warp_affine(
        images, push, (size, size), padding_mode="border", align_corners=True
    )


def torch_programs(warp: Callable, size: int, operands: tuple) -> dict[str, Callable]:
    """Returns a warp in PyTorch: forward pass, and forward and backward pass."""
    images, magnitudes, weights = (torch.from_numpy(np.array(x)) for x in operands)
    images, weights = (x.permute(0, 3, 1, 2).contiguous() for x in (images, weights))

    def forward():
        with torch.no_grad():
            return warp(images, compose_torch(magnitudes, size)).permute(0, 2, 3, 1)

    def gradient():
        free = magnitudes.clone().requires_grad_()
        value = torch.sum(weights * warp(images, compose_torch(free, size)))
        return torch.autograd.grad(value, free)[0]

    return {FORWARD: lambda: _wait(forward()), BOTH: lambda: _wait(gradient())}


def _wait(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()


WARPS: dict[str, tuple[Callable, Callable]] = {
    "autodo_jax": (jax_programs, affine.resample),
    "dm-pix": (jax_programs, warp_dm_pix),
    "torch grid_sample": (torch_programs, warp_grid_sample),
    "kornia warp_affine": (torch_programs, warp_kornia),
}


def measure(batch: int, size: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Returns milliseconds of each program and warp, after comparing their results."""
    rng = np.random.default_rng(0)
    images = rng.random((batch, size, size, 3), np.float32)
    mean = np.array([affine.OPERATIONS[name].mean for name in OPERATIONS])
    unit = np.array([affine.OPERATIONS[name].range for name in OPERATIONS])
    noise = rng.normal(size=(batch, len(OPERATIONS)))
    magnitudes = (mean + 0.5 * unit * noise).astype(np.float32)
    weights = rng.normal(size=images.shape).astype(np.float32)
    operands = jax.device_put((images, magnitudes, weights))
    programs = {name: of(warp, size, operands) for name, (of, warp) in WARPS.items()}
    times = {}
    for part in (FORWARD, BOTH):
        found = {name: np.asarray(parts[part]()) for name, parts in programs.items()}
        for name, values in found.items():
            # At a pixel or on the border, rounding decides between two values.
            apart = np.abs(values - found["autodo_jax"]) > 1e-2 * np.abs(values).max()
            assert np.mean(apart) < 0.01, (name, part, np.mean(apart))
        turns = {name: parts[part] for name, parts in programs.items()}
        times[part] = common.in_turns(turns, repeats)
    return times


def main() -> None:
    """Prints the table and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    results = []
    for batch, size in SIZES:
        times = measure(batch, size, arguments.repeats)
        for part, by_name in times.items():
            medians = {name: statistics.median(ms) for name, ms in by_name.items()}
            ours = medians["autodo_jax"]
            print(f"{batch} x {size} x {size} x 3, {part}:")
            for name, median in medians.items():
                print(f"  {name:20} {median:8.2f} ms, {median / ours:5.2f} x ours")
        results.append({"batch": batch, "size": size, "milliseconds": times})
    common.write(arguments.json, results=results)


if __name__ == "__main__":
    main()
