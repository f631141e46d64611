"""optimize_dataset on arrays: numbers of the command line, networks, refusals."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import autodo_jax
from autodo_jax import config as config_lib
from autodo_jax import errors, main
from autodo_jax.data import split
from autodo_jax.data.sources import arrays
from autodo_jax.data.sources import digits as digits_source
from autodo_jax.models import given
from autodo_jax.train import loop
from autodo_jax.workdir import files
from tests.train.prepared import tiny_config

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    """(train, validation, test) of digits, as a run of seed 0 splits them."""
    data = tiny_config("autodo_s").data
    parts = split.stratified_split(
        digits_source.load(data, 0),
        test_size=data.test_size,
        validation_size=data.validation_size,
        seed=0,
    )
    return [(part.images, part.labels) for part in parts]


@pytest.fixture(scope="module")
def optimized(digits, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("api") / "run"
    config = tiny_config("autodo")
    return workdir, autodo_jax.optimize_dataset(
        *digits, config=config, workdir=workdir, progress=False
    )


def test_it_comes_to_the_numbers_of_the_command_line(optimized, tmp_path):
    config = tiny_config("autodo")
    (tmp_path / "tiny.py").write_text(
        "import json\nfrom autodo_jax.config import default_config\n"
        "def get_config(method=''):\n    config = default_config()\n"
        f"    config.update(json.loads({config.to_json_best_effort()!r}))\n"
        "    return config\n"
    )
    folder = tmp_path / "run"
    arguments = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={folder}"]
    assert main.main(["main", *arguments]) == 0
    workdir, found = optimized
    assert (workdir / "report.html").exists()
    expected = json.loads((folder / "result.json").read_text())
    for changing in ("seconds", "dataset"):
        del expected[changing], found.result[changing]
    assert found.result == expected
    tables, others = (
        dict(np.load(run / "hyperparams.npz")) for run in (folder, workdir)
    )
    assert tables.keys() == others.keys() == {"gate", "magnitude", "weight", "label"}
    for name, table in tables.items():
        np.testing.assert_array_equal(table, others[name])


def test_its_network_makes_the_errors_that_it_reports(digits, optimized):
    images, labels = digits[2]
    _, found = optimized
    probability = found.predict(images)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    error = 100 * np.mean(probability.argmax(axis=1) != labels)
    assert error == pytest.approx(found.result["test_error"])
    # By the network and its variables alone, as a user takes them elsewhere.
    normalized = (images[:5] / np.float32(255) - 0.305) / 0.376
    logits = found.model.apply(found.variables, normalized, train=False)
    np.testing.assert_allclose(
        nn.softmax(logits), probability[:5], rtol=1e-4, atol=1e-6
    )


def test_a_finished_workdir_is_read_and_not_trained_again(digits, optimized):
    workdir, found = optimized
    before = (workdir / "metrics.jsonl").read_text()
    config = tiny_config("autodo")
    again = autodo_jax.optimize_dataset(
        *digits, config=config, workdir=workdir, progress=False
    )
    assert (workdir / "metrics.jsonl").read_text() == before
    images = digits[2][0]
    np.testing.assert_array_equal(again.predict(images), found.predict(images))


def test_a_workdir_of_other_images_is_refused(digits, optimized):
    train, *others = digits
    changed = train[0].copy()
    changed[0, 0, 0] ^= 1
    with pytest.raises(autodo_jax.RunError, match="the data are not those"):
        autodo_jax.optimize_dataset(
            (changed, train[1]),
            *others,
            config=tiny_config("autodo"),
            workdir=optimized[0],
            progress=False,
        )


def test_floats_and_grey_images_without_a_channel_are_the_same(digits, capfd):
    results = []
    for change in (lambda x: x, lambda x: x[..., 0] / np.float32(255)):
        train, validation = ((change(x), y) for x, y in digits[:2])
        config = tiny_config("autodo_s")
        found = autodo_jax.optimize_dataset(
            train, validation, config=config, progress=False
        )
        results.append({**found.result, "seconds": 0})
    assert results[0]["num_test"] == 0
    assert np.isnan(results[0]["test_error"])
    np.testing.assert_equal(results[0], results[1])
    assert capfd.readouterr() == ("", "")


class Perceptron(nn.Module):
    """A user's own network, of one hidden layer with batch norm."""

    classes: int = 10
    name_of_head: str = "head"
    units: int = 16
    activation: Callable = nn.celu

    def setup(self):
        self.hidden = nn.Dense(self.units)
        self.norm = nn.BatchNorm(axis_name="data")
        setattr(self, self.name_of_head, nn.Dense(self.classes))

    def features(self, images, *, train):
        x = self.hidden(images.reshape(len(images), -1))
        return self.activation(self.norm(x, use_running_average=not train))

    def __call__(self, images, *, train):
        return getattr(self, self.name_of_head)(self.features(images, train=train))


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_users_own_network_is_trained(digits, num_devices):
    config = tiny_config("autodo_s", epochs=6)
    config.data.imbalance_ratio, config.data.noise_ratio = 1.0, 0.0
    config.num_devices = num_devices
    found = autodo_jax.optimize_dataset(
        *digits, model=Perceptron(), config=config, progress=False
    )
    assert set(found.variables["params"]) == {"hidden", "norm", "head"}
    assert found.result["test_error"] < 20


class WithDropout(Perceptron):
    def setup(self):
        super().setup()
        self.dropout = nn.Dropout(0.5)

    def features(self, images, *, train):
        x = super().features(images, train=train)
        return self.dropout(x, deterministic=not train)


class Counting(Perceptron):
    def setup(self):
        super().setup()
        self.calls = self.variable("calls", "count", lambda: jnp.zeros(()))


@pytest.mark.parametrize(
    "model, expected",
    [
        (nn.Dense(10), "has no method features"),
        (
            Perceptron(classes=7),
            r"to \(2, 7\) and .*, expected \(2, 10\)",
        ),
        (Perceptron(name_of_head="last"), "has no nn.Dense named `head`"),
        (Counting(), "has variables of the kind calls"),
        (WithDropout(), "cannot be applied to images .* needs PRNG for .dropout"),
    ],
)
def test_a_network_of_another_kind_is_refused(digits, model, expected):
    with pytest.raises(ValueError, match=expected) as raised:
        autodo_jax.optimize_dataset(*digits, model=model, progress=False)
    assert "\n" not in str(raised.value)


def images(*shape, dtype=np.uint8):
    return RNG.integers(0, 256, shape).astype(dtype)


LABELS = np.arange(40) % 10
GOOD = (images(40, 8, 8, 1), LABELS)


@pytest.mark.parametrize(
    "train, expected",
    [
        (images(40, 8, 8), "`train` must be a pair"),
        ((images(40, 64), LABELS), r"train images have shape \(40, 64\)"),
        ((images(0, 8, 8), LABELS[:0]), r"train images have shape \(0, 8, 8\)"),
        ((images(40, 8, 8, dtype=np.int32), LABELS), "are int32, expected uint8"),
        ((images(40, 8, 8, dtype=np.float32), LABELS), r"expected \[0, 1\]; scale"),
        ((np.full((40, 8, 8), np.nan), LABELS), r"floats in \[nan, nan\]"),
        ((images(40, 8, 8) / -255, LABELS), r"expected \[0, 1\]; scale"),
        ((images(40, 8, 8), LABELS[:39]), r"labels of shape \(39,\) for 40"),
        ((images(40, 8, 8), LABELS[:, None]), r"labels have shape \(40, 1\)"),
        ((images(40, 8, 8), LABELS / 10), "labels are float64, expected integers"),
        ((images(40, 8, 8), LABELS.astype(str)), "np.unique"),
        ((images(40, 8, 8), LABELS - 1), "a train label is -1"),
        ((images(40, 8, 8), LABELS // 2 * 2), "no points of class 1, 3, 5, 7, 9"),
        ((images(40, 8, 8), LABELS.astype(np.uint64) + 2**40), "label is 10995116277"),
        ((images(40, 8, 8), LABELS + 10**7), "the labels go up to 10000009, but 40"),
        ((images(40, 8, 8, 5), LABELS), "with 1 or 3 channels"),
        (([[[1], [1, 2]]], LABELS), "the train images are not an array"),
        ((images(40, 9, 8), LABELS), "expected 8x8|9x8"),
        ((images(40, 8, 8, 3), LABELS), "validation images have 1 channels"),
        (GOOD, "40 of 40 validation images are in the train set"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(train, expected):
    with pytest.raises(ValueError, match=expected) as raised:
        autodo_jax.optimize_dataset(train, GOOD, progress=False)
    assert "\n" not in str(raised.value) and "--" not in str(raised.value)


def changed(**fields):
    config = tiny_config("baseline")
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.parametrize(
    "config, expected",
    [
        (changed(**{"task.momentum": 1.5}), "config.task.momentum is 1.5"),
        (changed(**{"data.image_size": (9, 9)}), "but arrays are taken as they are"),
        (changed(**{"data.max_train_points": 5}), "all points of arrays are taken"),
        (changed(**{"data.outer_set": "test"}), "there is no test set"),
        (changed(epoch=3), "has unknown field config.epoch;"),
        (
            changed(method="autodo"),
            "config.method is 'autodo', but .* are those of 'baseline'",
        ),
        (
            changed(**{"hyper.soft_labels": True}),
            r"are those of 'autodo_s' .*apply_method\(config, 'baseline'\)$",
        ),
        (ml_collections.ConfigDict(), "has no field config.augment.crop_padding"),
        ({"epochs": 1}, "is a dict, expected a ConfigDict"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(config, expected):
    with pytest.raises(ValueError, match=expected) as raised:
        autodo_jax.optimize_dataset(GOOD, GOOD, config=config, progress=False)
    assert "\n" not in str(raised.value) and "--" not in str(raised.value)


def test_the_default_configuration_has_no_field_that_is_unknown():
    with pytest.raises(AttributeError):
        autodo_jax.config_for(GOOD).epoch = 3
    with pytest.raises(ValueError, match="`train` must be a pair"):
        autodo_jax.config_for(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 9, 9), (3, 8, 8, 3)])
def test_images_of_another_shape_are_not_classified(optimized, shape):
    with pytest.raises(ValueError, match=r"expected \(8, 8, 1\) as those of the train"):
        optimized[1].predict(images(*shape))


@pytest.mark.parametrize("model", [None, Perceptron(), Perceptron(units=17)])
def test_a_workdir_of_another_network_is_refused(digits, tmp_path, model):
    (tmp_path / "checkpoints").mkdir()
    config = tiny_config("autodo_s")
    given = config.copy_and_resolve_references()
    given.data.source, given.model.module = "arrays", "Perceptron 0123456789ab"
    files.write_config(tmp_path, config_lib.to_json(given))
    with pytest.raises(ValueError, match=r"run with another config\.model\.mod"):
        autodo_jax.optimize_dataset(
            *digits, model=model, config=config, workdir=tmp_path, progress=False
        )


def fingerprint_of(model, splits):
    num_classes = len(splits.train.class_names)
    shapes = given.validate_model(model, (8, 8, 1), num_classes, "data")
    return given.fingerprint(model, shapes)


def test_networks_have_names_that_last(digits):
    parts = arrays.to_splits(*digits)
    names = [
        fingerprint_of(model, parts)
        for model in (
            Perceptron(),
            Perceptron(),
            Perceptron(units=17),
            Perceptron(activation=nn.tanh),
        )
    ]
    assert names[0] == names[1] and len(set(names)) == 3
    code = (
        "from tests.test_api import *; point = np.zeros((10, 8, 8)), np.arange(10);"
        "print(fingerprint_of(Perceptron(), arrays.to_splits(point, point)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == names[0]


def test_ctrl_c_is_what_python_makes_of_it(digits, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise errors.Interrupted("saved", "<again> continues", signum=signal.SIGINT)

    monkeypatch.setattr(loop, "run", interrupted)
    for workdir, said in ((None, ""), (tmp_path, "saved; the same call continues")):
        with pytest.raises(KeyboardInterrupt) as raised:
            autodo_jax.optimize_dataset(*digits, workdir=workdir, progress=False)
        assert str(raised.value) == said


@pytest.mark.parametrize("side, network", [(8, "small_cnn"), (65, "resnet")])
def test_the_default_configuration_fits_the_images(side, network):
    config = autodo_jax.config_for((images(20, side, side, 3), LABELS[:20]))
    assert config.model.name == network
    # Of integers drawn from 0..255.
    np.testing.assert_allclose(config.data.mean, [0.5] * 3, atol=0.05)
    np.testing.assert_allclose(config.data.std, [256 / 255 / 12**0.5] * 3, atol=0.02)


def test_features_are_learned_from_and_predicted():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 5)) + 3 * np.eye(3, 5)[labels]
    train, validation = (features[:45], labels[:45]), (features[45:], labels[45:])
    config = autodo_jax.config_for(train)
    config.epochs, config.guard.folds, config.guard.expected_epochs = 2, 0, 1
    found = autodo_jax.optimize_dataset(
        train, validation, config=config, progress=False
    )
    probability = found.predict(features)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(probability.argmax(axis=1) == labels) > 0.9
    logits: Any = found.model.apply(found.variables, features, train=False)
    np.testing.assert_array_equal(logits.argmax(axis=1), probability.argmax(axis=1))
    assert found.report.noise_score.shape == (45,)
    with pytest.raises(ValueError, match="shape \\(4,\\) each, expected \\(5,\\)"):
        found.predict(features[:, :4])
    with pytest.raises(ValueError, match="the train features are float64 of shape"):
        autodo_jax.config_for((features[:0], labels[:0]))
