"""Times EfficientNet-Lite0 beside PyTorch's, from the same weights, on the CPUs.

    python benchmarks/encoder.py --json=benchmarks/results/encoder-cpu.json

Batches of 32 images of 224 and of 96 pixels, in turns, with as many threads for PyTorch
as there are cores for JAX; logits are compared first. Needs efficientnet-lite-pytorch
and torch besides the extra pretrained.
"""

import functools
from collections.abc import Callable
from typing import Any

import common
import efficientnet_lite_pytorch
import jax
import numpy as np
import tabulate
import torch

from autodo_jax import models
from autodo_jax.config import default_config, use_pretrained
from autodo_jax.models import pretrained

BATCH, SIZES, NUM_CLASSES = 32, (224, 96), 1000


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(common.num_cores())
    ours, theirs = create()
    samples: dict[str, dict[str, list[float]]] = {}
    table = []
    for size in SIZES:
        rng = np.random.default_rng(0)
        images = rng.normal(size=(BATCH, size, size, 3)).astype(np.float32)
        turned = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        np.testing.assert_allclose(ours(images), theirs(turned), atol=1e-4)
        programs = {
            "autodo_jax": functools.partial(ours, images),
            "PyTorch": functools.partial(theirs, turned),
        }
        samples[str(size)] = common.in_turns(programs, arguments.repeats)
        for name, times in samples[str(size)].items():
            table.append((size, name, BATCH / np.median(times) * 1e3))
    common.write(arguments.json, batch=BATCH, milliseconds=samples)
    columns = ("pixels", "", "images a second")
    print(tabulate.tabulate(table, columns, tablefmt="github", floatfmt=".1f"))


def create() -> tuple[Callable[[np.ndarray], Any], Callable[[torch.Tensor], Any]]:
    """Returns both networks, from images to logits."""
    config = default_config()
    use_pretrained(config)
    config.model.frozen_encoder = False
    model = models.create(config.model, NUM_CLASSES)
    variables = jax.device_put(models.initial_variables(config.model, NUM_CLASSES))
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    network = efficientnet_lite_pytorch.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=str(pretrained.imagenet_file("efficientnet_lite0")),
    ).eval()

    @torch.inference_mode()
    def theirs(images: torch.Tensor) -> Any:
        return network(images).numpy()

    return functools.partial(apply, variables), theirs


if __name__ == "__main__":
    main()
