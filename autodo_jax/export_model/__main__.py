"""python -m autodo_jax.export_model WORKDIR --to=FILE

Writes the trained network of a finished run for other programs: FILE, its arrays as
safetensors; FILE.json, the classes and how images are prepared; and FILE.stablehlo,
the network itself by `jax.export`, from uint8 images [B, H, W, channels]
to logits [B, C], with cropping, normalization and weights in it. It runs on CPUs, GPUs
and TPUs:

    logits = jax.export.deserialize(open("FILE.stablehlo", "rb").read()).call(images)
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
import safetensors.numpy

from autodo_jax.errors import ArgumentParser, WorkdirError, for_command_line, printable
from autodo_jax.predict.predictor import Predictor
from autodo_jax.predict.trained import OptimizedDataset, load_run
from autodo_jax.version import __version__
from autodo_jax.workdir import files
from autodo_jax.workdir import run as runs

_PLATFORMS = ("cpu", "cuda", "tpu")


def arrays_of(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a network by names like "params.head.kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.ascontiguousarray(
            leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def description(workdir: pathlib.Path, found: OptimizedDataset) -> dict[str, Any]:
    """Returns what a program has to know to use the network, as JSON can hold it."""
    config = runs.load_config(workdir)
    crop = config.augment.crop_size
    return {
        "autodo_jax": __version__,
        "class_names": list(found.class_names),
        "image_shape": list(found.predict.image_shape),  # height, width, channels
        "resize": config.data.resize,
        "center_crop": crop or None,  # pixels, before normalization
        "mean": list(config.data.mean),  # of pixels in [0, 1]
        "std": list(config.data.std),
        "model": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.model.to_dict().items()
        },
        "test_error": found.result["test_error"],
    }


def to_stablehlo(predict: Predictor) -> bytes:
    """Returns the network for any number of images, as `jax.export` serializes it."""

    def logits(images: jax.Array) -> jax.Array:
        params, batch_stats = (
            predict.variables[name] for name in ("params", "batch_stats")
        )
        return predict.logits(params, batch_stats, images)

    (batch,) = jax.export.symbolic_shape("batch")
    dtype = np.uint8 if len(predict.image_shape) == 3 else np.float32  # of features
    images = jax.ShapeDtypeStruct((batch, *predict.image_shape), dtype)
    exported = jax.export.export(jax.jit(logits), platforms=_PLATFORMS)(images)
    return bytes(exported.serialize())


def export_model(workdir: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
    """Writes the three files and returns their paths.

    Args:
      workdir: of a finished run.
      target: path of the arrays; those of the others have a further suffix.

    Raises:
      WorkdirError: one of them exists.
      RunFilesError, ModelError: as `load_run`.
      WriteError: they cannot be written.
    """
    paths = [
        target,
        *(pathlib.Path(f"{target}{end}") for end in (".json", ".stablehlo")),
    ]
    for path in paths:
        if path.exists():
            raise WorkdirError(f"{path} exists", "pass another FILE")
    found = load_run(workdir)
    text = json.dumps(description(workdir, found), indent=2, allow_nan=False) + "\n"
    contents = (
        safetensors.numpy.save(arrays_of(found.variables)),
        text.encode(),
        to_stablehlo(found.predict),
    )
    for path, content in zip(paths, contents, strict=True):
        files.write(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.export_model",
        description="Writes a run's trained network for other programs.",
    )
    parser.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
    parser.add_argument("--to", required=True, type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    try:
        paths = export_model(arguments.workdir, arguments.to)
    except (ValueError, OSError) as error:
        print(f"autodo_jax.export_model: {for_command_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print("\n".join(printable(str(path)) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
