"""Runs whose steps are compiled once for all tests of the same configuration."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax import config as config_lib
from autodo_jax.train import loop, setup
from configs import digits

_PREPARED: dict = {}
# Fields that neither data nor compiled steps depend on.
_FREE = (
    *("checkpoint_every", "checkpoint_minutes", "checkpoint_keep", "profile"),
    *("save_probabilities", "save_embeddings"),
)


def tiny_config(method, epochs=2):
    """Digits with a network of two narrow stages and without a policy.

    A policy takes most of the time to compile; test_configs.py trains with them.
    """
    config = digits.get_config(method)
    config.epochs, config.hyper.start_epoch = epochs, 1
    config.batch_size = 16
    config.model.widths = (4, 4)
    config.num_devices = 1
    config.augment.policy = "none"
    config.data.validation_size = 0.3
    config.task.joined_epochs = 0
    config_lib.validate(config)
    return config


def prepare(config):
    """As `setup.prepare`; like configurations share a setup, with a state each."""
    fields = config_lib.to_fields(config)
    key = json.dumps({name: fields[name] for name in fields if name not in _FREE})
    if key not in _PREPARED:
        _PREPARED[key] = setup.prepare(config)
    ready, state = _PREPARED[key]
    return dataclasses.replace(ready, config=config), jax.tree.map(jnp.copy, state)


def run(config, folder, progress=None):
    """Runs in a folder; returns its result, its metrics and its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    ready, state = prepare(config)
    result = loop.run(ready, state, folder, progress).result
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    with np.load(folder / "hyperparams.npz") as tables:
        return result, [json.loads(line) for line in lines], dict(tables)
