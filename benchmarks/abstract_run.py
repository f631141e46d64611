"""The steps of a run without its data and its devices: shapes in place of arrays."""

import functools
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from autodo_jax import distributed, models, objective
from autodo_jax.data.batches.batch import Batch, ImageShape, IndexedBatch, pack
from autodo_jax.distributed import AXIS, BY_ROWS, REPLICATED
from autodo_jax.train import setup, steps
from autodo_jax.train.state import TrainState, create_optimizers, create_state


class DataShape(NamedTuple):
    """The size of a data set."""

    num_train: int
    num_validation: int
    num_classes: int
    image_shape: tuple[int, int, int]  # (H, W, channels)


# As the configurations leave them: of ImageNet at an imbalance of 10.
DATA = {
    "cifar10": DataShape(22_000, 10_000, 10, (32, 32, 3)),
    "cifar100": DataShape(22_000, 10_000, 100, (32, 32, 3)),
    "svhn": DataShape(604_388, 26_032, 10, (32, 32, 3)),
    "imagenet": DataShape(563_713, 256_234, 1000, (256, 256, 3)),
}


class AbstractRun:
    """Steps and the shapes of their operands, placed as `train.setup` places them."""

    def __init__(
        self, config: ml_collections.ConfigDict, mesh: Mesh, data: DataShape
    ) -> None:
        """Traces the initialization of a run.

        Args:
          config: validated.
          mesh: of devices that need not be there.
          data: sizes of its data set.
        """
        self._config, self._mesh, self._data = config, mesh, data
        model = models.create(config.model, data.num_classes, AXIS)
        losses = objective.create(config, model)
        num_steps = data.num_train // config.batch_size
        optimizers = create_optimizers(config, num_steps)
        image = jax.ShapeDtypeStruct((1, *data.image_shape), np.uint8)
        create = functools.partial(
            create_state,
            config,
            model,
            optimizers,
            num_classes=data.num_classes,
            image_shape=jax.eval_shape(losses.clean_inputs, image).shape[1:],
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        rows = distributed.padded_rows(data.num_train, mesh.size)
        labels = jax.ShapeDtypeStruct((rows,), np.int32)
        given = models.initial_variables(config.model, data.num_classes)
        shapes = jax.eval_shape(create, key, labels, given)
        specs = setup.state_specs(shapes)
        formats = distributed.formats(mesh, specs, shapes)
        self.state: TrainState = jax.tree.map(_placed, shapes, formats)
        self._key = _placed(key, distributed.shardings(mesh, REPLICATED))
        streamed = Batch(BY_ROWS, BY_ROWS, REPLICATED)
        self._points_specs: Any = streamed if config.data.stream else REPLICATED
        self.steps = steps.compile(
            losses,
            optimizers,
            config.hyper,
            mesh=mesh,
            state_specs=specs,
            points_specs=self._points_specs,
            state_formats=formats,
        )

    def lower(self, step: str, num_steps: int = 1) -> jax.stages.Lowered:
        """Returns a step for its devices, to be compiled.

        Args:
          step: "task", "hyper", "evaluate" or "features".
          num_steps: K in one dispatch, of "task" and "hyper" on resident data.
        """
        size, num_train = self._config.batch_size, self._data.num_train
        num_validation = self._data.num_validation
        train = self._points(num_train, size, num_steps)
        if step == "task":
            return self.steps.task.lower(self.state, train, self._key)  # type: ignore
        if step == "hyper":
            validation = self._points(num_validation, size, num_steps)
            hyper: Any = self.steps.hyper
            return hyper.lower(self.state, train, validation, self._key)
        points = self._points(num_validation, self._eval_size(), 1)
        evaluation: Any = getattr(self.steps, step)
        return evaluation.lower(self.state.params, self.state.batch_stats, points)

    def expected_exchange(self, step: str) -> int:
        """Returns the bytes of a step's collectives by the formula of docs/scale.md."""
        config, params = self._config, self.state.params
        batch, head = config.batch_size, _size(params["head"])
        columns = sum(
            _size(table) // len(table)
            for table in self.state.tables.values()
            if len(table) > 1
        )
        eval_size = self._eval_size()
        norms = _size(self.state.batch_stats) // 2
        return (
            4
            * {
                "task": _size(params) + 1 + 4 * norms + batch * columns,
                # The rows, their gradient, and their squares; vectors like the head.
                "hyper": 2 * batch * columns
                + (13 + config.hyper.num_terms) * head
                + 16,
                "evaluate": 3 * eval_size,
                "features": eval_size * params["head"]["kernel"].shape[0],
            }[step]
        )

    def _eval_size(self) -> int:
        size = min(self._config.eval_batch_size, self._data.num_validation)
        return -(-size // self._mesh.size) * self._mesh.size

    def _points(self, number: int, size: int, num_steps: int) -> Any:
        def shape(*sides: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sides, dtype)

        index = shape(num_steps, size) if num_steps > 1 else shape(size)
        sides = self._data.image_shape
        points: Any
        if self._config.data.stream:
            points = Batch(shape(size, *sides, dtype=np.uint8), shape(size), index)
            by_rows, everywhere = distributed.shardings(
                self._mesh, (BY_ROWS, REPLICATED)
            )
            return Batch(*map(_placed, points, (by_rows, by_rows, everywhere)))
        images, image_shape = shape(number, *sides, dtype=np.uint8), None
        if distributed.is_tpu(self._mesh):
            images, image_shape = packed(number, sides)
        points = IndexedBatch(images, shape(number), index, image_shape)
        everywhere = distributed.shardings(self._mesh, REPLICATED)
        return jax.tree.map(lambda leaf: _placed(leaf, everywhere), points)


def packed(
    number: int, sides: tuple[int, int, int]
) -> tuple[jax.ShapeDtypeStruct, ImageShape | None]:
    """Returns the shape of packed images, by `pack` of a single one."""
    one, image_shape = pack(np.zeros((1, *sides), np.uint8))
    return jax.ShapeDtypeStruct((number, *one.shape[1:]), np.uint8), image_shape


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
