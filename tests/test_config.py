"""Defaults are the paper's, every field is checked, and messages name the field."""

import importlib
import math
import pathlib

import ml_collections
import pytest

from autodo_jax import config as config_lib
from autodo_jax.errors import RunFilesError
from autodo_jax.train import state
from autodo_jax.workdir import files
from autodo_jax.workdir.run import load_config
from configs import cifar10, digits


def test_defaults_are_the_papers():
    config = config_lib.default_config()
    config_lib.validate(config)
    paper = {
        "epochs": 200, "batch_size": 256,
        "task.learning_rate": 0.1, "task.momentum": 0.9, "task.weight_decay": 1e-4,
        "hyper.learning_rate": 0.05, "hyper.start_epoch": 50,
        "hyper.num_terms": 5, "hyper.step_size": 0.01, "hyper.smoothing": 0.1,
        "augment.gate_probability": 0.25,
        "model.depth": 28, "model.width": 10,
    }  # fmt: skip
    for name, value in paper.items():
        section: ml_collections.ConfigDict = config
        *path, field = name.split(".")
        for part in path:
            section = section[part]
        assert section[field] == value, name
    assert state.WARMUP_EPOCHS == 5
    # PyTorch's.
    assert (state.RMSPROP_DECAY, state.RMSPROP_EPS) == (0.99, 1e-8)


# Methods without policy and augmentation, which features do not have.
OF_FEATURES = {*config_lib.RIVALS, "baseline", "autodo_w", "autodo_s", "autodo"}
CONFIGS = sorted(
    path.stem for path in pathlib.Path(digits.__file__).parent.glob("*.py")
)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", config_lib.METHODS)
def test_every_method_of_every_config_validates(name, method):
    config = importlib.import_module(f"configs.{name}").get_config(method)
    if name == "embeddings" and method not in OF_FEATURES:
        with pytest.raises(ValueError, match="use autodo, autodo_s or autodo_w"):
            config_lib.validate(config)
        return
    config_lib.validate(config)
    assert config.name == name
    assert config.method == method
    assert config_lib.has_hyperparams(config.hyper) == ("autodo" in method.split("_"))


def leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


NUMBERS = [
    name
    for name, value in leaves(config_lib.default_config())
    if isinstance(value, (int, float)) and not isinstance(value, bool)
]


def refused(name, value):
    config = digits.get_config()
    *path, field = name.split(".")
    section = config
    for part in path:
        section = section[part]
    with section.ignore_type():
        section[field] = value
    with pytest.raises(ValueError, match=rf"config\.{name} is .*, expected"):
        config_lib.validate(config)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_bounded_and_finite(name):
    refused(name, -1)
    refused(name, math.nan)
    refused(name, math.inf)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "autodp"),
        ("data.source", "cats"),
        ("model.name", "vgg"),
        ("model.dtype", "int8"),
        ("model.widths", ()),
        ("hyper.augment", "all"),
        ("hyper.solver", "lu"),
        ("hyper.smoothing", 1.0),
        ("hyper.start_epoch", 120),
        ("augment.gate_probability", 0.0),
        ("augment.operations", ()),
        ("augment.operations", ("rotate", "rotate")),
        ("augment.operations", ("rotate", "posterize")),
        ("augment.operations", ("hue",)),
        ("data.std", (1.0, 1.0)),
        ("data.std", (0.0,)),
        ("data.noise_ratio", 1.5),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    refused(name, value)


def test_unknown_methods_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown method 'x'; use one of baseline"):
        digits.get_config("x")


@pytest.mark.parametrize(("name", "depth"), [("resnet", 28), ("wide_resnet", 27)])
def test_depths_that_a_network_does_not_come_in_are_refused(name, depth):
    config = cifar10.get_config()
    config.model.name, config.model.depth = name, depth
    with pytest.raises(ValueError, match=rf"config\.model\.depth is {depth}, expected"):
        config_lib.validate(config)


def test_the_configuration_of_a_run_is_read_back(tmp_path):
    config = digits.get_config("autodo_s")
    files.write_config(tmp_path, config_lib.to_json(config))
    found = load_config(tmp_path)
    assert found.to_json_best_effort() == config.to_json_best_effort()
    assert found.model.widths == config.model.widths
    for text in ("{", "[]", '{"unknown": 1}', '{"epochs": -1}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunFilesError) as raised:
            load_config(tmp_path)
        assert "\n" not in str(raised.value)
