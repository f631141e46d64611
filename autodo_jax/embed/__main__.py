"""python -m autodo_jax.embed PATH --to=FILE.npz [--config.FIELD=VALUE ...]

Writes the features that a pretrained network has of images, for configs/embeddings.py
and other programs. PATH is a folder or an archive as configs/photos.py takes it, and
fields are its own: the network is EfficientNet-Lite0 with the weights of ImageNet, or
that of <config.model.name>, <config.model.depth> and <config.model.weights>. FILE has
for each part that PATH has, train, validation and test, PART_features [N, D] float32,
PART_labels and PART_ids, and class_names.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from autodo_jax import command_line, models, objective
from autodo_jax.config import default_config, use_pretrained
from autodo_jax.data import checks
from autodo_jax.data.dataset import Dataset
from autodo_jax.data.sources import folder
from autodo_jax.errors import (
    ArgumentParser,
    ConfigError,
    UsageError,
    WorkdirError,
    for_command_line,
    printable,
)
from autodo_jax.train import features
from autodo_jax.workdir import files


def embed(
    config: ml_collections.ConfigDict,
    say: features.Say = lambda text: None,
    *,
    workdir: pathlib.Path | None = None,
) -> dict[str, np.ndarray]:
    """Returns the arrays of the file, by their names.

    Args:
      config: validated, of a network with weights and of a folder.
      say: is told how far it is, in a line.
      workdir: of a run, whose features are taken and kept; None: all are computed.

    Raises:
      ConfigError: no weights, or weights that do not fit the network.
      DataError: images that are absent or cannot be read.
    """
    if not models.has_frozen_encoder(config.model):
        raise ConfigError(
            "config.model has no weights for an encoder that is frozen",
            "pass <config.model.weights=FILE.safetensors>",
            "leave out <config.model.frozen_encoder>",
        )
    parts = folder.load(config.data, config.seed)
    checks.check(parts, channels=len(config.data.mean))
    class_names = parts.train.class_names
    given = models.initial_variables(config.model, len(class_names))
    losses = objective.create(config, models.create(config.model, len(class_names)))
    encoder = features.Encoder(config, losses, given["batch_stats"]["encoder"])
    store = features.open_store(workdir, encoder)
    arrays: dict[str, np.ndarray] = {"class_names": np.array(class_names)}
    for name, part in parts._asdict().items():
        if part is not None and len(part.labels):
            arrays |= _arrays(name, part, encoder.of(part, store, say))
    return arrays


def _arrays(name: str, part: Dataset, found: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"{name}_features": found,
        f"{name}_labels": part.labels,
        f"{name}_ids": part.ids,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.embed",
        description="Writes features of images by a pretrained network.",
        epilog="Fields of configs/photos.py are set by --config.FIELD=VALUE.",
    )
    parser.add_argument("path", type=pathlib.Path, metavar="PATH")
    parser.add_argument("--to", required=True, type=pathlib.Path, metavar="FILE.npz")
    arguments, fields = parser.parse_known_args(argv)
    try:
        if arguments.to.suffix != ".npz":
            raise WorkdirError(f"{arguments.to} does not end in .npz")
        if arguments.to.exists():
            raise WorkdirError(f"{arguments.to} exists", "pass another FILE.npz")
        config = default_config()
        config.data.source = "folder"
        use_pretrained(config)
        config.data.data_dir = str(arguments.path)
        arrays = embed(command_line.with_fields(config, fields), _say)
        to_file: Any = arrays
        files.write(arguments.to, lambda file: np.savez(file, **to_file))
    except (UsageError, ValueError, OSError) as error:
        print(f"autodo_jax.embed: {for_command_line(error)}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    shapes = ", ".join(
        f"{name.removesuffix('_features')} {len(values):,}"
        for name, values in arrays.items()
        if name.endswith("_features")
    )
    width = arrays["train_features"].shape[1]
    print(printable(f"{arguments.to}: {width} features of {shapes} images"))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
