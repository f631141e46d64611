"""What a finished run found, from its workdir alone."""

import dataclasses
import pathlib
import pickle
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from autodo_jax import models, objective
from autodo_jax.data.images import decode
from autodo_jax.distributed import AXIS
from autodo_jax.errors import ModelError, RunFilesError
from autodo_jax.models import given
from autodo_jax.predict import pickling
from autodo_jax.predict.predictor import Predictor
from autodo_jax.workdir import files
from autodo_jax.workdir import run as runs
from autodo_jax.workdir.dataset_report import DatasetReport, load_dataset_report


class OptimizedDataset(NamedTuple):
    """Results of `optimize_dataset` and `load_run`."""

    # test_error, val_error, class_error (percent), ...
    result: dict[str, Any]
    report: DatasetReport  # of each train point
    class_names: tuple[str, ...]  # C names, in the order of the probabilities
    model: nn.Module  # the network
    variables: dict[str, Any]  # its "params" and "batch_stats"
    predict: Predictor  # images -> probabilities [N, C]

    def __reduce__(self) -> tuple:
        return _restored, (pickling.dumps([*self]),)


def _restored(fields: bytes) -> OptimizedDataset:
    return OptimizedDataset(*pickle.loads(fields))


def load_run(
    workdir: str | pathlib.Path, *, model: nn.Module | None = None
) -> OptimizedDataset:
    """Returns what `optimize_dataset` returned, from the workdir of a finished run.

    It reads the workdir alone and changes nothing there; the folder may have been
    moved.

    Args:
      workdir: of a finished run, by the command line or with `workdir=`.
      model: the network that was passed to `optimize_dataset`, again; None where none
        was.

    Raises:
      RunFilesError: an unfinished run, files that are absent or cannot be read, or do
        not fit together.
      ModelError: no `model` where the run was trained with one, or another one.

    Examples:
      >>> import tempfile
      >>> import numpy as np
      >>> from autodo_jax import load_run, optimize_dataset
      >>> rng, labels = np.random.default_rng(0), np.arange(60) % 3
      >>> features = np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))
      >>> given = np.where(np.arange(60) == 7, 0, labels)  # number 7 is a 1
      >>> with tempfile.TemporaryDirectory() as workdir:
      ...     found = optimize_dataset(
      ...         (features[:40], given[:40]),
      ...         (features[40:], labels[40:]),
      ...         workdir=workdir,
      ...         progress=False,
      ...     )
      ...     loaded = load_run(workdir)
      >>> bool((loaded.predict(features) == found.predict(features)).all())
      True
    """
    path = pathlib.Path(workdir).expanduser()
    run = runs.read(path)
    if run.result is None:
        raise RunFilesError(
            f"{workdir} holds no {files.RESULT}", "pass the workdir of a finished run"
        )
    result = dict(run.result)
    class_names = tuple(result["class_error"])
    image_shape = _image_shape(path, result)
    config = runs.load_config(path)
    model = _model(path, config, model, image_shape, len(class_names))
    variables = _variables(path, config, model, image_shape, len(class_names))
    predict = Predictor(
        objective.create(config, model), variables, image_shape, config.eval_batch_size
    )
    report = load_dataset_report(path)
    return OptimizedDataset(result, report, class_names, model, variables, predict)


def image_decoder(workdir: pathlib.Path, found: OptimizedDataset) -> decode.Decoder:
    """Returns the decoder that prepares image files as the run's were.

    Images of another size than the run's are resized to it.

    Args:
      workdir: of the run.
      found: from `load_run`.
    """
    if len(found.predict.image_shape) == 1:
        raise RunFilesError(
            f"{workdir} was trained on features, not on images",
            "pass features to autodo_jax.load_run(workdir).predict",
        )
    decoder = decode.decoder(runs.load_config(workdir).data)
    height, width, channels = found.predict.image_shape
    return dataclasses.replace(decoder, size=(height, width), channels=channels)


def _image_shape(path: pathlib.Path, result: dict[str, Any]) -> tuple[int, ...]:
    shape = result.get("image_shape")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 3)  # 1: of features
        or not all(type(side) is int and 0 < side < 2**16 for side in shape)
    ):
        raise files.read_error(
            path / files.RESULT, ValueError("it has no image_shape (H, W, channels)")
        )
    return tuple(shape)


def network_shape(
    config: ml_collections.ConfigDict, image_shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the shape that images have in the network, after crops."""
    side = config.augment.crop_size
    return (side, side, image_shape[2]) if side else image_shape


def _model(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    model: nn.Module | None,
    image_shape: tuple[int, ...],
    num_classes: int,
) -> nn.Module:
    wanted = config.model.module
    if model is None and not wanted:
        return models.create(config.model, num_classes, AXIS)
    if model is None:
        raise ModelError(
            f"{path} was trained with a network of your own, {wanted}, which only "
            "autodo_jax.load_run(workdir, model=...) can take"
        )
    if not wanted:
        raise ModelError(
            f"{path} was trained with the {config.model.name} of its configuration, "
            "not with a `model`",
            "leave it out",
        )
    shape = network_shape(config, image_shape)
    name = given.fingerprint(
        model, given.validate_model(model, shape, num_classes, AXIS)
    )
    if name != wanted:
        raise ModelError(f"`model` is {name}, but {path} was trained with {wanted}")
    return model


def _variables(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    model: nn.Module,
    image_shape: tuple[int, ...],
    num_classes: int,
) -> dict[str, Any]:
    """Returns the variables of the last state, checked against the network."""
    from autodo_jax.workdir import checkpoint  # Orbax takes a second to import.

    parts = checkpoint.read_parts(path / files.CHECKPOINTS, ("params", "batch_stats"))
    variables = {name: parts.get(name) or {} for name in ("params", "batch_stats")}
    images = jax.ShapeDtypeStruct((1, *network_shape(config, image_shape)), np.float32)
    try:
        logits = jax.eval_shape(
            lambda variables, images: model.apply(variables, images, train=False),
            variables,
            images,
        )
        problem = "" if logits.shape == (1, num_classes) else f"logits {logits.shape}"
    except Exception as error:  # Flax and the network raise many kinds.
        problem = " ".join(str(error).split())[:300]
    if problem:
        raise RunFilesError(
            f"the network in {path / files.CHECKPOINTS} is not that of its "
            f"{files.CONFIG} and {files.RESULT}: {problem}",
            "restore them from a copy",
        )
    return variables
