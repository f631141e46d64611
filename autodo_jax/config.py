"""Every field of an experiment's configuration, once, with its unit and source.

The files in `configs/` start from `default_config()` and change what differs; the
paper's values (Sec. 5, App. A) are the defaults. `apply_method` sets the fields that
make a row of the paper's tables, `validate` refuses configurations that cannot run.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import ml_collections

from autodo_jax import models
from autodo_jax.augment import color, policies
from autodo_jax.augment.learned import OPERATIONS
from autodo_jax.data.sources import SOURCES
from autodo_jax.errors import ConfigError


class Method(NamedTuple):
    """The fields in which the rows of the paper's tables differ."""

    policy: str  # augment.policy
    augment: str = "none"  # hyper.augment
    weights: bool = False  # hyper.weights
    soft_labels: bool = False  # hyper.soft_labels


METHOD_FIELDS = (
    "augment.policy",
    "hyper.augment",
    "hyper.weights",
    "hyper.soft_labels",
)


METHODS = {
    "baseline": Method("none"),
    "randaugment": Method("randaugment"),
    "uniform_augment": Method("uniform_augment"),
    "fast_autoaugment": Method("fast_autoaugment"),
    "dada": Method("dada"),
    "autodo_shared": Method("randaugment_color", "shared"),  # lambda_ASHA
    "autodo_a": Method("randaugment_color", "per_point"),  # lambda_A
    "autodo_aw": Method("randaugment_color", "per_point", True),  # lambda_A,W
    "autodo_s": Method("none", "none", False, True),  # lambda_S
    "autodo": Method("randaugment_color", "per_point", True, True),  # lambda_A,W,S
}


# Fields that a resumed run may have other values of: they do not change what is
# computed but for the order of sums, or, as more `epochs`, only what comes later.
MAY_CHANGE = frozenset(
    {
        "epochs",
        "eval_batch_size",
        "num_devices",
        "steps_per_dispatch",
        "checkpoint_every",
        "checkpoint_minutes",
        "checkpoint_keep",
        "watchdog_minutes",
        "debug_nans",
        "profile",
        "data.allow_overlap",
        "data.data_dir",
        "data.stream",
        "data.num_workers",
    }
)


def default_config() -> ml_collections.ConfigDict:
    """Returns all fields with the paper's values where it gives one."""
    config = ml_collections.ConfigDict()
    config.name = "default"  # names the folder below runs/
    config.method = "autodo"  # a key of METHODS; set by apply_method
    config.seed = 0  # of split, distortions, initialization and every draw
    config.epochs = 200  # passes over the train set (App. A)
    config.batch_size = 256  # points a step, train and validation (App. A)
    config.eval_batch_size = (
        512  # points a step without gradients; no effect on results
    )
    # Devices that share each batch; 0: all, or as many as divide batch_size.
    config.num_devices = 0
    # Steps in one call to the devices, without the host; 0: 1 on CPUs, where a loop is
    # slower, else 16. Streamed data: always 1.
    config.steps_per_dispatch = 0
    # A run is saved after this many epochs, and after this many minutes; 0: not so.
    config.checkpoint_every = 0
    config.checkpoint_minutes = 5.0
    config.checkpoint_keep = 2  # latest checkpoints kept, besides the best
    config.watchdog_minutes = 5.0  # without a step, until it is reported; 0: never
    config.debug_nans = False  # stop at the operation that makes a NaN; slow
    # Folder for traces of the second epoch and the second with hyper steps; "": none.
    config.profile = ""

    config.data = _data()
    config.augment = _augment()
    config.model = _model()
    config.task = _task()
    config.hyper = _hyper()
    apply_method(config, "autodo")
    return config


def _data() -> ml_collections.ConfigDict:
    data = ml_collections.ConfigDict()
    data.source = "digits"  # a key of data.sources.SOURCES
    data.data_dir = ""  # where the data is; "": TFDS's own default, not for folder
    data.extra = False  # svhn: its extra set joins the train set
    data.image_size = ()  # (height, width) images are resized to; (): as they are
    data.resize = "crop"  # crop: keeps the aspect, cuts to the centre; or stretch
    # Large sets: decode each image when its batch needs it, instead of all beforehand.
    data.stream = False
    data.num_workers = 0  # processes that decode streamed images; 0: threads instead
    data.max_train_points = 0  # a stratified part of the train images; 0: all
    data.max_test_points = 0  # a stratified part of the test images; 0: all
    # Sizes are shares of the points below 1, else numbers of points.
    data.test_size = 0.25  # where the source has no test set
    data.validation_size = 0.2  # of the points not in the test set (Sec. 5.1)
    # Whether a source's own validation set may have images of its train set.
    data.allow_overlap = False
    # Where the outer loss is taken: validation; test (ablation, Table 5); or train, all
    # points then being train points (ablation, Table 6).
    data.outer_set = "validation"
    data.imbalance_ratio = 1.0  # IR >= 1: frequent over rare points (Sec. 5.1)
    data.noise_ratio = 0.0  # NR in [0, 1]: share of labels redrawn (Sec. 5.1)
    data.noise_kind = "uniform"  # over all classes (Sec. 5.1); or pair: y to y + 1
    data.mean = (0.0,)  # of each channel, pixels in [0, 1]
    data.std = (1.0,)  # of each channel, pixels in [0, 1]
    return data


def _augment() -> ml_collections.ConfigDict:
    augment = ml_collections.ConfigDict()
    # Policy before everything else; not learned, set by the method.
    augment.policy = "none"  # one of augment.policies.NAMES
    augment.policy_table = "cifar10"  # data set of fast_autoaugment's and dada's policy
    augment.num_ops = 1  # operations a drawn policy gives an image; set by the method
    augment.rand_magnitude = 15.0  # M in [0, 30] of randaugment, randaugment_color
    # Standard augmentation, the same for every method (Sec. 5.1).
    augment.crop_size = 0  # side of a random resized crop, pixels; 0: random crop
    augment.crop_padding = 4  # pixels around a random crop to the same size; 0: none
    augment.flip = False  # mirror half of the images
    augment.erase_probability = 0.5  # share of images with an erased rectangle
    # Learned augmentation g_A (Sec. 4.1), in this order.
    augment.operations = (
        "rotate",
        "scale",
        "translate_x",
        "translate_y",
        "shear_x",
        "shear_y",
    )
    augment.magnitude = 10.0  # M > 0, scales the ranges of all magnitudes as M / 10
    augment.gate_probability = (
        0.25  # of an open gate at the start, in (0, 1) (Sec. 4.1)
    )
    return augment


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    model.name = "wide_resnet"  # one of models.NAMES
    model.depth = 28  # of wide_resnet 6n + 4, of resnet 18, 34 or 50 (Sec. 5.1)
    model.width = 10  # of wide_resnet, factor of the channels (Sec. 5.1)
    model.stem = "small"  # of resnet: small images, or imagenet (7x7 and pooling)
    model.widths = (32, 64, 64)  # of small_cnn, channels of each stage
    model.activation = "celu"  # a key of models.ACTIVATIONS; Eq. 4 needs C^1 (App. A)
    model.module = ""  # of optimize_dataset: which network was given instead
    model.dtype = "float32"  # of the encoder's computation: float32 or bfloat16
    return model


def _task() -> ml_collections.ConfigDict:
    task = ml_collections.ConfigDict()  # SGD of theta, cosine schedule (App. A)
    task.learning_rate = 0.1  # peak; SVHN 0.005 (App. A)
    task.momentum = 0.9  # Nesterov (App. A)
    task.weight_decay = 1e-4  # of all parameters (App. A)
    task.clip_norm = 0.0  # largest global norm of a gradient; 0: unbounded
    return task


def _hyper() -> ml_collections.ConfigDict:
    hyper = ml_collections.ConfigDict()  # Lambda and its RMSprop (App. A)
    hyper.augment = "per_point"  # per_point, shared or none; set by the method
    hyper.weights = True  # g_W (Sec. 4.2); set by the method
    hyper.soft_labels = True  # g_S (Sec. 4.2); set by the method
    hyper.frozen = False  # keep Lambda at its start: the control of a learned row
    hyper.theta = "head"  # theta of Eq. 5: head (App. A), or all parameters
    hyper.start_epoch = 50  # E, epochs before the outer loop starts (App. A)
    hyper.learning_rate = 0.05  # peak; ImageNet 0.01 (App. A)
    hyper.solver = "neumann"  # neumann, conjugate_gradient or identity (T1-T2, DARTS)
    hyper.num_terms = 5  # T: products of the solve (App. A); 0: as identity
    hyper.step_size = 0.01  # a < 2 / lambda_max of the Neumann series
    hyper.auto_step_size = False  # a = 1 / lambda_max, estimated at each step, instead
    # Of a Neumann series that ends with a residual above 1, its start: take its first
    # term, a b, instead (first_term, as T1-T2), or stop the run (stop).
    hyper.on_divergence = "first_term"
    hyper.max_update = 0.0  # largest move of an entry of Lambda a step; 0: unbounded
    hyper.smoothing = 0.1  # alpha of the soft labels at the start, in (0, 1) (App. A)
    hyper.symmetric_kl = True  # loss to soft labels; False: KL(y^S || p) (Sec. 4.2)
    return hyper


# Operations that the policies which draw them give each image.
_NUM_OPS = {"randaugment": 3, "randaugment_color": 1, "uniform_augment": 2}


def apply_method(
    config: ml_collections.ConfigDict,
    method: str | None,
    *,
    num_ops: Mapping[str, int] | None = None,
) -> None:
    """Sets the fields of a row of the paper's tables; None or "": `autodo`.

    Args:
      config: its METHOD_FIELDS, `method` and `augment.num_ops` are set.
      method: a key of METHODS.
      num_ops: `augment.num_ops` by policy, where it is not the usual number.

    Raises:
      ConfigError: an unknown method.
    """
    method = method or "autodo"
    if method not in METHODS:
        raise ConfigError(
            f"unknown method {method!r}", f"use one of {_listed(METHODS)}"
        )
    config.method = method
    for name, value in zip(METHOD_FIELDS, METHODS[method], strict=True):
        section, field = name.split(".")
        config[section][field] = value
    config.augment.num_ops = (_NUM_OPS | dict(num_ops or {})).get(
        config.augment.policy, 0
    )


def has_hyperparams(hyper: ml_collections.ConfigDict | Method) -> bool:
    """True where any sub-model is in use, so that Lambda is not empty."""
    return hyper.augment != "none" or hyper.weights or hyper.soft_labels


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError where a configuration lacks a field, or has one unknown."""
    known = flatten(default_config().to_dict())
    given = flatten(config.to_dict())
    for kind, names in (
        ("unknown", given.keys() - known),
        ("no", known.keys() - given),
    ):
        if names:
            listed = _listed(f"config.{name}" for name in sorted(names)[:5])
            raise ConfigError(
                f"the configuration has {kind} field {listed}",
                "begin with one of configs/, or with config_for",
            )


def to_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields as JSON keeps them, by names like `data.mean`."""
    return flatten(to_json(config))


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields as JSON keeps them, in nested dicts."""
    return json.loads(config.to_json_best_effort())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a configuration, as dicts, by names like `data.mean`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, path + ".") if isinstance(value, dict) else {path: value}
    return flat


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every field on its own and those that depend on each other.

    Raises:
      ConfigError: names the field, its value and what is expected.
    """
    for name, (holds, expected) in _RULES.items():
        value = _get(config, name)
        if not (math.isfinite(value) and holds(value)):
            _refuse(name, value, expected)
    for name, choices in CHOICES.items():
        value = _get(config, name)
        if value not in choices:
            _refuse(name, value, f"one of {_listed(choices)}")
    _check_method(config)
    try:
        models.check(config.model)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    _check_images(config.data)
    _check_operations(config)
    learns = has_hyperparams(config.hyper) and not config.hyper.frozen
    if learns and config.hyper.start_epoch >= config.epochs:
        _refuse(
            "hyper.start_epoch",
            config.hyper.start_epoch,
            f"less than epochs={config.epochs}",
            "raise <config.epochs>",
            "learn nothing with <config.hyper.frozen=True>",
        )


def method_of(config: ml_collections.ConfigDict) -> str | None:
    """Returns the method whose fields a configuration has; None for a variant."""
    given = tuple(_get(config, name) for name in METHOD_FIELDS)
    return next((name for name, fields in METHODS.items() if fields == given), None)


_AT_LEAST_1 = (lambda v: v >= 1, "a number >= 1")
_AT_LEAST_0 = (lambda v: v >= 0, "a number >= 0")
_POSITIVE = (lambda v: v > 0, "a number > 0")
_SHARE = (lambda v: 0 <= v <= 1, "a share in [0, 1]")
_PROPER_SHARE = (lambda v: 0 < v < 1, "a share in (0, 1)")
_SIZE = (
    lambda v: 0 < v < 1 or (v >= 1 and v == int(v)),
    "a share in (0, 1) or a number of points",
)
_DECAY = (lambda v: 0 <= v < 1, "a number in [0, 1)")

_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**32, "an integer in [0, 2**32)"),
    "epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "eval_batch_size": _AT_LEAST_1,
    "num_devices": _AT_LEAST_0,
    "steps_per_dispatch": _AT_LEAST_0,
    "checkpoint_every": _AT_LEAST_0,
    "checkpoint_minutes": _AT_LEAST_0,
    "checkpoint_keep": _AT_LEAST_1,
    "watchdog_minutes": _AT_LEAST_0,
    "data.test_size": _SIZE,
    "data.validation_size": _SIZE,
    "data.num_workers": _AT_LEAST_0,
    "data.max_train_points": _AT_LEAST_0,
    "data.max_test_points": _AT_LEAST_0,
    "data.imbalance_ratio": _AT_LEAST_1,
    "data.noise_ratio": _SHARE,
    "augment.num_ops": _AT_LEAST_0,
    "augment.rand_magnitude": (lambda v: 0 <= v <= 30, "a number in [0, 30]"),
    "augment.crop_size": _AT_LEAST_0,
    "augment.crop_padding": _AT_LEAST_0,
    "augment.erase_probability": _SHARE,
    "augment.magnitude": _POSITIVE,
    "augment.gate_probability": _PROPER_SHARE,
    "model.depth": _AT_LEAST_1,
    "model.width": _AT_LEAST_1,
    "task.learning_rate": _POSITIVE,
    "task.momentum": _DECAY,
    "task.weight_decay": _AT_LEAST_0,
    "task.clip_norm": _AT_LEAST_0,
    "hyper.start_epoch": _AT_LEAST_0,
    "hyper.learning_rate": _POSITIVE,
    "hyper.num_terms": _AT_LEAST_0,
    "hyper.step_size": _POSITIVE,
    "hyper.max_update": _AT_LEAST_0,
    "hyper.smoothing": _PROPER_SHARE,
}

CHOICES = {
    "method": tuple(METHODS),
    "data.source": tuple(SOURCES),
    "data.resize": ("crop", "stretch"),
    "data.noise_kind": ("uniform", "pair"),
    "data.outer_set": ("validation", "test", "train"),
    "augment.policy": policies.NAMES,
    "augment.policy_table": policies.TABLES,
    "model.name": models.NAMES,
    "model.stem": ("small", "imagenet"),
    "model.activation": tuple(models.ACTIVATIONS),
    "model.dtype": ("float32", "bfloat16"),
    "hyper.augment": ("per_point", "shared", "none"),
    "hyper.theta": ("head", "all"),
    "hyper.solver": ("neumann", "conjugate_gradient", "identity"),
    "hyper.on_divergence": ("first_term", "stop"),
}


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _refuse(name: str, value: Any, expected: str, *advice: str) -> NoReturn:
    raise ConfigError(f"config.{name} is {value!r}, expected {expected}", *advice)


def _check_method(config: ml_collections.ConfigDict) -> None:
    """Refuses a run that would be called by the name of another method.

    Fields that are not those of any method make a variant, which tables name.
    """
    found = method_of(config)
    if found not in (None, config.method):
        fields = ", ".join(f"{name}={_get(config, name)!r}" for name in METHOD_FIELDS)
        raise ConfigError(
            f"config.method is {config.method!r}, but the fields that a method sets "
            f"are those of {found!r} ({fields})",
            f"choose a method by <method={config.method}>",
        )


def _check_images(data: ml_collections.ConfigDict) -> None:
    mean, std, size = data.mean, data.std, data.image_size
    if not mean or len(mean) != len(std):
        _refuse("data.std", std, f"one number a channel, as data.mean={mean}")
    if not all(value > 0 for value in std):
        _refuse("data.std", std, "numbers > 0")
    if size and (len(size) != 2 or min(size) < 1):
        _refuse("data.image_size", size, "(height, width) in pixels, or ()")


def _check_operations(config: ml_collections.ConfigDict) -> None:
    operations = config.augment.operations
    unknown = [name for name in operations if name not in OPERATIONS]
    if unknown or not operations or len(set(operations)) < len(operations):
        _refuse(
            "augment.operations", operations, f"distinct names of {tuple(OPERATIONS)}"
        )
    if len(config.data.mean) != 3 and not color.NEEDS_RGB.isdisjoint(operations):
        _refuse(
            "augment.operations",
            operations,
            f"none of {sorted(color.NEEDS_RGB)} for images without 3 channels",
        )
