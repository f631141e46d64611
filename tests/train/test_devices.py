"""The same run on one device and on several: losses, Lambda, what is communicated."""

import pathlib
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax import models
from autodo_jax.distributed import AXIS
from autodo_jax.errors import RunError
from autodo_jax.models.network import Network
from autodo_jax.train import loop
from autodo_jax.train import setup as setup_lib
from autodo_jax.train.run_log import RunLog
from autodo_jax.train.state import create_optimizers
from autodo_jax.train.steps import create_hyper_step, create_task_step
from configs import cifar10_jpeg, digits
from tests.train import prepared
from tests.train.prepared import prepare, run, tiny_config

PHOTOGRAPHS = (
    pathlib.Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.xz"
)
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute|"
    r"collective-broadcast|ragged-all-to-all)(?:-start)?\("
)
SHAPE = re.compile(r"f32\[([\d,]*)\]")


class PlainNetwork(Network):
    """Without batch norm, in double precision."""

    num_classes: int

    def setup(self):
        self.conv = nn.Conv(3, (3, 3), strides=2, param_dtype=jnp.float64)
        self.head = nn.Dense(self.num_classes, param_dtype=jnp.float64)

    def features(self, images, *, train):
        del train
        return nn.celu(self.conv(images)).reshape(len(images), -1)


def losses(config, num_devices):
    """(train and outer losses of each epoch, final state) of a run."""
    config = config.copy_and_resolve_references()
    config.num_devices = num_devices
    config_lib.validate(config)
    setup, state = prepare(config)
    log, found = RunLog(), []
    for _ in range(config.epochs):
        state, record = loop.run_epoch(setup, state, log)
        log.end_epoch(record)
        found.append([record["train_loss"], record.get("outer_loss", 0.0)])
    return np.array(found), state


@pytest.mark.parametrize(
    "method", ["autodo", pytest.param("autodo_shared", marks=pytest.mark.slow)]
)
def test_four_devices_train_as_one(method):
    config = tiny_config(method)
    one, one_state = losses(config, 1)
    four, four_state = losses(config, 4)
    np.testing.assert_allclose(four, one, rtol=1e-4)
    for name, table in one_state.tables.items():
        np.testing.assert_allclose(
            four_state.tables[name][: len(table)], table, atol=2e-3, err_msg=name
        )


@pytest.mark.slow
def test_in_double_precision_and_without_batch_norm_losses_agree(monkeypatch, x64):
    monkeypatch.setattr(models, "create", lambda config, c, axis: PlainNetwork(c))
    monkeypatch.setattr(prepared, "_PREPARED", {})  # of the usual network
    config = tiny_config("autodo")
    one, _ = losses(config, 1)
    eight, _ = losses(config, 8)
    # Lambda is in single precision.
    np.testing.assert_allclose(eight, one, rtol=1e-4)


def test_the_same_step_under_pmap():
    """Four devices by jax.pmap, each with its block of the rows."""
    config = tiny_config("autodo")
    config.num_devices = 4
    setup, state = prepare(config)
    optimizers = create_optimizers(config, setup.plan.num_steps)
    functions: dict[str, Callable] = {
        "task": create_task_step(setup.objective, optimizers),
        "hyper": create_hyper_step(setup.objective, optimizers, config.hyper),
    }
    specs = setup_lib.state_specs(state)
    is_spec = lambda spec: isinstance(spec, jax.sharding.PartitionSpec)  # noqa: E731
    axes = jax.tree.map(lambda s: 0 if AXIS in s else None, specs, is_leaf=is_spec)
    blocks = state._replace(
        tables=stacked(state.tables),
        hyper_optimizer_state=state.hyper_optimizer_state._replace(
            nu=stacked(state.hyper_optimizer_state.nu),
            last_touch=stacked(state.hyper_optimizer_state.last_touch),
        ),
    )
    blocks = jax.device_get(blocks)  # The steps donate the state.
    (task, *_), (hyper, *_) = (setup.feed.batches(p, 1) for p in ("task", "hyper"))
    for name, points, key in (
        ("task", task, setup.task_key),
        ("hyper", hyper, setup.hyper_key),
    ):
        mapped = jax.pmap(
            functions[name],
            axis_name=AXIS,
            in_axes=(axes, *[None] * len(points), None),
            out_axes=(axes, None),
            devices=jax.devices()[:4],
        )
        state, values = getattr(setup.steps, name)(state, *points, key)
        blocks, mapped_values = mapped(jax.device_get(blocks), *map(host, points), key)
        for metric, value in values.items():
            np.testing.assert_allclose(mapped_values[metric], value, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves((state.params, state.batch_stats)),
        jax.tree.leaves((blocks.params, blocks.batch_stats)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name, table in state.tables.items():
        block = blocks.tables[name]
        np.testing.assert_allclose(block.reshape(table.shape), table, atol=1e-5)


def stacked(tables):
    return {
        name: np.asarray(table).reshape(4, -1, *table.shape[1:])
        for name, table in tables.items()
    }


def host(points):
    return points._replace(
        images=np.asarray(points.images), labels=np.asarray(points.labels)
    )


def collectives(step, *args) -> list[tuple[str, int]]:
    """Kind and number of float32 values of each array a compiled step communicates."""
    text = step.lower(*args).compile().as_text()
    found = []
    for shapes, kind in COLLECTIVE.findall(text):
        assert set(re.findall(r"([a-z]+\d+)\[", shapes)) == {"f32"}, shapes
        for shape in SHAPE.findall(shapes):
            found.append((kind, int(np.prod([int(n) for n in shape.split(",") if n]))))
    return found


def test_devices_exchange_gradients_statistics_and_rows_and_nothing_else():
    """Values are counted as the program has them, a loop's body once."""
    config = tiny_config("autodo")
    config.num_devices = 4
    setup, state = prepare(config)
    (task, *_), (hyper, *_) = (setup.feed.batches(p, 1) for p in ("task", "hyper"))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    row = sum(table[0].size for table in state.tables.values())
    head = sum(leaf.size for leaf in jax.tree.leaves(state.params["head"]))
    norms = sum(2 * width for width in config.model.widths)  # a mean and a square

    found = collectives(setup.steps.task, state, *task, setup.task_key)
    # Gradients, the loss, and batch statistics forward and backward.
    others = num_params + 1 + 2 * norms
    assert total(found, "all-reduce") == config.batch_size * row + others
    assert {kind for kind, _ in found} == {"all-reduce"}

    found = collectives(setup.steps.hyper, state, *hyper, setup.hyper_key)
    assert {kind for kind, _ in found} == {"all-reduce"}
    # Rows there, their gradient back; theta-like vectors: right-hand side, the body of
    # the power iteration, T products, those at x before and after a fallback, L_t's
    # gradient. And the outer loss and the norm of Lambda's rows.
    num_vectors = 2 + config.hyper.num_terms + 3
    values = total(found, "all-reduce")
    assert values == 2 * config.batch_size * row + num_vectors * head + 2


def test_on_accelerators_each_device_gets_the_rows_of_its_shard_only():
    config = tiny_config("autodo_s")
    config.num_devices = 8
    setup, state = prepare(config)
    (points,) = next(setup.feed.batches("task", 0))
    traced = setup.steps.task.trace(state, points, setup.task_key)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found = re.findall(r'"stablehlo\.(\w*(?:reduce_|all_|collective_)\w+)"', text)
        assert set(found) == {"all_reduce", "reduce_scatter"}
        assert found.count("reduce_scatter") == 1
        rows = f"tensor<{config.batch_size // 8}x10xf32>"
        assert re.search(rf'reduce_scatter"(?s:.*?)\}}\) : \(.*?\) -> {rows}', text)


def total(found, kind):
    return sum(count for name, count in found if name == kind)


def test_a_batch_that_the_devices_cannot_share_ends_in_one_line(tmp_path):
    config = tiny_config("baseline")
    config.num_devices = 3
    with pytest.raises(RunError, match=r"batch_size = 15, or .*batch_size = 18"):
        run(config, tmp_path)


def test_the_devices_in_use_hold_all_of_lambda_in_equal_blocks():
    config = tiny_config("autodo")
    config.num_devices = 4
    _, state = prepare(config)
    for table in state.tables.values():
        shards = table.addressable_shards
        assert len(shards) == 4
        assert {shard.data.shape[0] for shard in shards} == {len(table) // 4}


@pytest.mark.slow
def test_digits_on_one_two_four_and_eight_devices():
    config = digits.get_config("autodo_s")  # without a policy, quick to compile
    config.epochs, config.hyper.start_epoch = 4, 2
    one, _ = losses(config, 1)
    for num_devices in (2, 4, 8):
        found, _ = losses(config, num_devices)
        np.testing.assert_allclose(found, one, rtol=0.02)


@pytest.mark.slow
@pytest.mark.full_compile
@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason=f"{PHOTOGRAPHS} is not there")
def test_photographs_on_one_and_four_devices():
    config = cifar10_jpeg.get_config("autodo_s")
    config.data.data_dir = str(PHOTOGRAPHS)
    config.data.max_train_points, config.data.max_test_points = 1000, 200
    config.model.name = "wide_resnet"
    config.model.depth, config.model.width = 10, 1
    config.epochs, config.hyper.start_epoch = 2, 1
    one, _ = losses(config, 1)
    four, _ = losses(config, 4)
    np.testing.assert_allclose(four, one, rtol=0.02)
