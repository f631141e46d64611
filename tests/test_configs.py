"""Every experiment file takes its steps, on a few random images of its own size."""

import importlib
import pathlib

import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax.data import sources
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.train import evaluate, setup
from tests.models.test_pretrained import needs_weights

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Sides of the images as a source gives them, where the file resizes none.
SIZES = {"digits": 8, "mnist": 28}

# Those that are stepped; tests/train/test_solved.py has embeddings.
SOLVED = {"embeddings", "photos"}
IMAGES = sorted({path.stem for path in CONFIGS.glob("*.py")} - SOLVED)


def tiny_source(data, seed):
    """120 random images of ten classes, and 20 for the test."""
    rng = np.random.default_rng(seed)
    size = data.image_size or (SIZES.get(data.source, 32),) * 2

    def dataset(num_points):
        shape = (num_points, *size, len(data.mean))
        return Dataset(
            images=rng.integers(0, 256, shape, dtype=np.uint8),
            labels=np.arange(num_points, dtype=np.int32) % 10,
            ids=np.arange(num_points).astype(str),
            class_names=tuple("abcdefghij"),
        )

    return SourceSplits(dataset(120), None, dataset(20))


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_a_config_takes_its_steps(name, monkeypatch):
    config = importlib.import_module(f"configs.{name}").get_config("autodo")
    monkeypatch.setitem(sources.SOURCES, config.data.source, tiny_source)
    config.batch_size = 4
    config.num_devices = 1
    config.data.stream = False
    if name != "cifar10":  # The policy of all of them takes long to compile.
        config.augment.policy = "none"
    config.data.validation_size = 0.2
    config.data.imbalance_ratio = min(config.data.imbalance_ratio, 2.0)
    if config.model.name == "wide_resnet":
        config.model.depth, config.model.width = 10, 1
    ready, state = setup.prepare(config)
    ((train,), *_) = ready.feed.batches("task", 0)
    ((points, validation), *_) = ready.feed.batches("hyper", 0)
    state, values = ready.steps.task(state, train, ready.task_key)
    assert np.isfinite(values["train_loss"])
    before = {name: np.asarray(table) for name, table in state.tables.items()}
    state, values = ready.steps.hyper(state, points, validation, ready.hyper_key)
    # Next to a random start the paper's step size may be too large for the series.
    assert np.isfinite(values["outer_loss"]) and np.isfinite(values["residual_norm"])
    assert all((state.tables[name] != before[name]).any() for name in before)
    evaluation = evaluate.evaluate(ready, state, "test", 0)
    assert len(evaluation.losses) == 20 and np.isfinite(evaluation.losses).all()


@pytest.mark.slow
@needs_weights
def test_photos_are_solved_on_the_weights_of_imagenet(monkeypatch):
    config = importlib.import_module("configs.photos").get_config()
    monkeypatch.setitem(sources.SOURCES, "folder", tiny_source)
    config.data.image_size = (32, 32)
    config_lib.validate(config)
    ready, state = setup.prepare(config)
    assert ready.solves is not None and state.params["head"]["kernel"].shape[1] == 10
    assert len(ready.solves.points.train) == 96
    evaluation = evaluate.evaluate(ready, state, "test", 0)
    assert len(evaluation.losses) == 20 and np.isfinite(evaluation.losses).all()
