"""`optimize_dataset`: from Python, what the command line does with files."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from autodo_jax import config as config_lib
from autodo_jax.data.dataset import SourceSplits
from autodo_jax.data.sources import arrays
from autodo_jax.distributed import AXIS
from autodo_jax.errors import (
    ConfigError,
    Interrupted,
    ModelError,
    RunError,
    WorkdirError,
)
from autodo_jax.models import given
from autodo_jax.predict.predictor import Predictor
from autodo_jax.predict.trained import OptimizedDataset, load_run, network_shape
from autodo_jax.report import page
from autodo_jax.train import loop
from autodo_jax.train.progress import EpochProgress
from autodo_jax.train.setup import prepare
from autodo_jax.workdir import folder

__all__ = ["OptimizedDataset", "RunError", "config_for", "load_run", "optimize_dataset"]

_SMALL = 64  # pixels; larger images get a residual network


def optimize_dataset(
    train: arrays.Arrays,
    validation: arrays.Arrays,
    test: arrays.Arrays | None = None,
    *,
    model: nn.Module | None = None,
    config: ml_collections.ConfigDict | None = None,
    workdir: str | pathlib.Path | None = None,
    progress: bool = True,
) -> OptimizedDataset:
    """Learns how to augment, weigh and relabel each train point, and a network.

    The arrays are what the command line reads from files; with the same configuration
    and the same points the numbers are the same.

    Args:
      train: (images, labels), biased and mislabelled. Images [N, H, W] or
        [N, H, W, channels], of 1 or 3 channels, uint8 or floating in [0, 1]; or
        features [N, D] of a frozen network, floating, for a head that is solved. Labels
        [N], integers 0..C-1, each class with a point.
      validation: likewise, small and clean; as the images to come.
      test: likewise, for the errors only; may be left out.
      model: a Flax module; None for the one of `config.model`. It maps float images
        [B, H, W, channels], normalized, and `train: bool` (a keyword) to logits [B, C];
        its method `features`, of the same arguments, to the [B, D] inputs of its last
        linear layer, an `nn.Dense` named `head`. `models.network.Network` says it in
        code. Variables are "params" and "batch_stats" alone: no dropout. Several
        devices share a batch norm by `nn.BatchNorm(axis_name="data")`.
      config: as the files in configs/ make it; None for `config_for(train)`. Its
        distortions are applied; where points come from and how they are split is not
        read.
      workdir: folder for the files of the run, its report among them. An interrupted
        run continues there, and a finished one is read. None: nothing is kept.
      progress: shows a bar.

    Raises:
      ValueError: arrays, a configuration, a model or a workdir that cannot be used.
      RunError: training cannot start or continue: a batch larger than a set, points
        that are not those of the workdir, numbers that are not finite.
      OSError: a workdir that cannot be written.
      KeyboardInterrupt: Ctrl-C; what was done so far is saved in the workdir.

    Examples:
      >>> import numpy as np
      >>> from autodo_jax import optimize_dataset
      >>> rng, labels = np.random.default_rng(0), np.arange(60) % 3
      >>> features = np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))
      >>> given = np.where(np.arange(60) == 7, 0, labels)  # number 7 is a 1
      >>> found = optimize_dataset(
      ...     (features[:40], given[:40]),
      ...     (features[40:], labels[40:]),
      ...     progress=False,
      ... )
      >>> int(found.report.noise_score.argmax())
      7
      >>> int(found.predict(features[7:8]).argmax())
      1
    """
    splits = arrays.to_splits(train, validation, test)
    config = _config(config_for(train) if config is None else config, splits)
    if model is not None:
        if splits.train.has_features:
            raise ModelError("`model` is for images; features have a head of their own")
        if config.model.weights:
            raise ModelError(
                "config.model.weights are for a network of config.model, not for "
                "`model`",
                "set it to ''",
            )
        config.model.module = _fingerprint(model, splits, config)
    show = "bar" if progress else "nothing"
    with _opened(workdir, config) as path:
        try:
            kept = None if workdir is None else path
            setup, state = prepare(config, splits=splits, model=model, workdir=kept)
            start_epoch = setup.plan.start_epoch
            progress_bar = EpochProgress(config.epochs, show, str, start_epoch)
            finished = loop.run(setup, state, path, progress_bar)
        except Interrupted as error:
            raise KeyboardInterrupt("" if workdir is None else str(error)) from error
        if workdir is not None:
            page.write_page(path)
    state = jax.device_get(finished.state)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return OptimizedDataset(
        finished.result,
        finished.report,
        splits.train.class_names,
        setup.objective.model,
        variables,
        Predictor(
            setup.objective,
            variables,
            splits.train.images.shape[1:],
            config.eval_batch_size,
        ),
    )


def _fingerprint(
    model: nn.Module, splits: SourceSplits, config: ml_collections.ConfigDict
) -> str:
    shape = network_shape(config, splits.train.images.shape[1:])
    num_classes = len(splits.train.class_names)
    return given.fingerprint(
        model, given.validate_model(model, shape, num_classes, AXIS)
    )


def config_for(train: arrays.Arrays) -> ml_collections.ConfigDict:
    """Returns a configuration for images like these.

    `autodo` for 120 epochs of 64 points a step, the outer loop after 30; a small
    network for images of up to 64 pixels, ResNet-18 for larger ones. Mean and deviation
    of the channels are those of the images. For features [N, D] a linear head, solved,
    and `autodo` of weights and labels.

    Args:
      train: as `optimize_dataset` takes it.

    Raises:
      ValueError: images of another kind.

    Examples:
      >>> import numpy as np
      >>> from autodo_jax import config_for
      >>> config = config_for((np.zeros((6, 8, 8)), np.arange(6) % 3))
      >>> config.method, config.model.name
      ('autodo', 'small_cnn')
    """
    images = arrays.to_points("train", arrays.pair("train", train)[0])
    if images.ndim == 2:
        return _config_for_features()
    side = min(images.shape[1:3])
    config = config_lib.default_config()
    config.name = "arrays"
    config.epochs = 120
    config.batch_size = 64
    config.data.source = "arrays"
    axes = (0, 1, 2)
    config.data.mean = tuple((images.mean(axes) / 255).tolist())
    config.data.std = tuple(np.maximum(images.std(axes) / 255, 1e-3).tolist())
    config.augment.crop_padding = side // 8
    config.augment.erase_probability = 0.0
    config.model.name = "small_cnn"
    if side > _SMALL:
        config.model.name, config.model.depth = "resnet", 18
        config.model.stem = "imagenet"
    config.hyper.start_epoch = 30
    config_lib.apply_method(config, "autodo")
    return config.lock()  # against unknown fields


def _config_for_features() -> ml_collections.ConfigDict:
    config = config_lib.default_config()
    config.name = "arrays"
    config.data.source = "arrays"
    config_lib.use_features(config)
    return config.lock()


def _config(
    given: ml_collections.ConfigDict, splits: SourceSplits
) -> ml_collections.ConfigDict:
    """Returns a checked copy, for points in memory."""
    if not isinstance(given, ml_collections.ConfigDict):
        raise ConfigError(
            f"`config` is a {type(given).__name__}, expected a ConfigDict, as the "
            "files in configs/ and config_for make it"
        )
    config = ml_collections.ConfigDict(given.copy_and_resolve_references())
    config_lib.check_fields(config)
    config.data.source = "arrays"
    config_lib.validate(config)
    data, size = config.data, splits.train.images.shape[1:3]
    has_features = splits.train.has_features
    if data.image_size and not has_features and tuple(data.image_size) != size:
        raise ConfigError(
            f"config.data.image_size is {tuple(data.image_size)}, but arrays are taken "
            f"as they are, {size}",
            "resize them",
            "set it to ()",
        )
    for name in ("max_train_points", "max_test_points"):
        if data[name]:
            raise ConfigError(
                f"config.data.{name} is {data[name]}, but all points of arrays are "
                "taken",
                "leave some out",
                "set it to 0",
            )
    test = splits.test
    if data.outer_set == "test" and (test is None or not len(test.labels)):
        raise ConfigError("config.data.outer_set is 'test', but there is no test set")
    return config


@contextlib.contextmanager
def _opened(
    workdir: str | pathlib.Path | None, config: ml_collections.ConfigDict
) -> Iterator[pathlib.Path]:
    """Context of a folder that is this run's alone; of a temporary one for None."""
    with contextlib.ExitStack() as stack:
        if workdir is None:
            workdir = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            path = pathlib.Path(workdir).expanduser()
        except TypeError as error:
            raise WorkdirError(f"`workdir` is {workdir!r}, expected a path") from error
        stack.enter_context(folder.opened(path, config))
        yield path
