"""The parts of an experiment before its first step: data, steps, state."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding

from autodo_jax import config as config_lib
from autodo_jax import distributed, models, objective
from autodo_jax.data import run_data
from autodo_jax.data.batches import streamed
from autodo_jax.data.batches.batch import Batch, Points, pack
from autodo_jax.data.batches.plan import BatchPlan
from autodo_jax.data.batches.resident import ResidentBatches
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.run_data import RunData
from autodo_jax.data.summary import Summary
from autodo_jax.distributed import AXIS, BY_ROWS, REPLICATED
from autodo_jax.errors import RunError
from autodo_jax.hyperparams.row_rmsprop import RowRMSpropState
from autodo_jax.objective import Objective
from autodo_jax.train import features, fitting, joined, problem, snapshot, solves, steps
from autodo_jax.train.solves import Solves
from autodo_jax.train.state import (
    Heads,
    Path,
    TrainState,
    create_optimizers,
    create_state,
    initial_tables,
)

_STEPS_PER_DISPATCH = 16  # on accelerators


class Feed(Protocol):
    """The source of the points of each step."""

    def batches(
        self, phase: str, epoch: int, start: int = 0
    ) -> Iterator[tuple[Points, ...]]:
        """Yields the points of each step of a phase of the plan, from `start` on.

        Or those of K steps together, as `steps.scan_steps` takes them.
        """


@dataclasses.dataclass(frozen=True)
class Setup:
    """The constants of a run: data, their order, and the steps."""

    config: ml_collections.ConfigDict
    data: RunData
    plan: BatchPlan
    feed: Feed
    objective: Objective
    steps: steps.Steps
    task_key: chex.PRNGKey
    hyper_key: chex.PRNGKey
    solves: Solves | None = None  # of a head that is solved
    # Its points on the principal axes, [N, R] of each part.
    coordinates: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


def prepare(
    config: ml_collections.ConfigDict,
    *,
    splits: SourceSplits | None = None,
    model: nn.Module | None = None,
    workdir: pathlib.Path | None = None,
    say: features.Say = lambda text: None,
) -> tuple[Setup, TrainState]:
    """Loads the data and returns the steps with the state of line 1.

    Args:
      config: validated configuration.
      splits: data in place of those of `config.data.source`.
      model: network in place of the one of `config.model`; see `models`.
      workdir: of the run; features of a frozen encoder are kept beside it. None: they
        are not kept.
      say: is told what takes time, in a line.

    Raises:
      ConfigError: weights that cannot be read, or do not fit the network.
      WriteError: features that cannot be kept.
      DataError: data that is absent or cannot be used.
      RunError: a batch larger than the train or the validation set, or one that the
        devices cannot share equally; images smaller than the crops.
    """
    num_devices = distributed.usable_devices(config.batch_size, config.num_devices)
    data = run_data.create(config, splits) if splits else run_data.load(config)
    if data.splits.train.has_features != (config.model.name in models.HEADS):
        raise fitting.wrong_model(config, data)
    fitting.check_sizes(config, data)
    if config_lib.is_solved(config):
        mesh = distributed.create_mesh(num_devices)
        return _prepare_head(config, data, mesh, workdir, say)
    num_devices = fitting.usable_devices(config, data, num_devices)
    mesh = distributed.create_mesh(num_devices)
    plan = _plan(config, data, num_devices)
    if model is None:
        model = models.create(config.model, data.num_classes, AXIS)
    train, clean_labels = data.splits.train, data.splits.validation.labels
    adjustment = objective.logit_adjustment(
        config.task.logit_adjustment if plan.joined_epochs else 0.0,
        train.labels,
        clean_labels,
        data.num_classes,
    )
    losses = objective.create(config, model, adjustment, len(train.labels))
    optimizers = create_optimizers(config, plan.num_steps)
    init_key, *keys = jax.random.split(jax.random.key(config.seed), 3)
    task_key, hyper_key = distributed.place(mesh, keys)
    images = jax.ShapeDtypeStruct((1, *train.images.shape[1:]), np.uint8)
    create = functools.partial(
        create_state,
        config,
        model,
        optimizers,
        num_classes=data.num_classes,
        image_shape=jax.eval_shape(losses.clean_inputs, images).shape[1:],
        num_clean=plan.num_points["validation"] if plan.joined_epochs else 0,
        num_held_out=int(snapshot.held_out(config, clean_labels).sum()),
    )
    given = models.initial_variables(config.model, data.num_classes)
    specs, formats, state = _place_state(mesh, create, init_key, train.labels, given)
    feed, points_specs = _feed(config, data, plan, mesh)
    compiled = steps.compile(
        losses,
        optimizers,
        config.hyper,
        mesh=mesh,
        state_specs=specs,
        points_specs=points_specs,
        start_rows=lambda labels: initial_tables(config, labels, data.num_classes),
        num_train=len(train.labels),
        state_formats=formats,
    )
    setup = Setup(config, data, plan, feed, losses, compiled, task_key, hyper_key)
    return setup, state


def _prepare_head(
    config: ml_collections.ConfigDict,
    data: RunData,
    mesh: Mesh,
    workdir: pathlib.Path | None,
    say: features.Say,
) -> tuple[Setup, TrainState]:
    """As `prepare`, for a head on constant features; it is solved."""
    if mesh.size > 1:
        raise RunError(
            f"a head on constant features runs on one device, not on {mesh.size}",
            "pass <config.num_devices=1>",
        )
    model = models.create(config.model, data.num_classes)
    losses = objective.create(config, model)
    found: dict[str, Any] = {
        name: part.images for name, part in data.splits._asdict().items()
    }
    constants: dict[str, Any] = {}
    if not data.splits.train.has_features:
        given = models.initial_variables(config.model, data.num_classes)
        constants = given["batch_stats"]
        encoder = features.Encoder(config, losses, constants["encoder"])
        data = dataclasses.replace(data, encoder=encoder.digest)
        store = features.open_store(workdir, encoder)
        for name, part in data.splits._asdict().items():
            found[name] = encoder.of(part, store, say)
    constants |= problem.principal_axes(found["train"], found["validation"])
    placed = {}
    for name, part in data.splits._asdict().items():
        if len(part.labels):
            found[name] = problem.coordinates(found[name], constants)
            placed[name] = distributed.place(mesh, (found.pop(name), part.labels))
    plan = _plan(config, data, 1)
    inner = problem.Problem(losses, config.task.prior_variance)
    moments = jnp.mean(placed["train"][0] ** 2, axis=0)
    (train_points, labels), (clean, clean_labels) = (
        placed[name] for name in ("train", "validation")
    )
    points = problem.Points(train_points, labels, clean, clean_labels, moments)
    init_key, *keys = jax.random.split(jax.random.key(config.seed), 3)
    params = model.init(init_key, points.clean[:1], train=False)["params"]
    head_solves = solves.create(config, inner, points, params)
    num_folds = config.guard.folds if solves.learns(config) else 0
    heads = head_solves.start(num_folds + 1)
    empty = jax.tree.map(lambda leaf: jnp.zeros((config.epochs, *leaf.shape)), params)
    unused: Any = ()
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=distributed.place(mesh, constants),
        optimizer_state=unused,
        tables=jax.tree.map(lambda table: table[-1], heads.tables),
        hyper_optimizer_state=unused,
        heads=Heads(heads, Path(empty, empty, empty)),
        held_out=jnp.zeros((config.epochs, len(clean_labels))),
    )
    compiled = steps.compile(
        losses,
        create_optimizers(config, 1),
        config.hyper,
        mesh=mesh,
        state_specs=TrainState(*[REPLICATED] * len(state)),  # type: ignore[arg-type]
        points_specs=REPLICATED,
    )
    feed = ResidentBatches(plan, placed)
    setup = Setup(config, data, plan, feed, losses, compiled, *keys)
    coordinates = {name: points for name, (points, _) in placed.items()}
    setup = dataclasses.replace(setup, solves=head_solves, coordinates=coordinates)
    return setup, state


def check(config: ml_collections.ConfigDict, show: Callable[[Summary], None]) -> None:
    """Reads the data of a run and says what is known of them; trains nothing.

    Args:
      config: validated configuration.
      show: is told of the data, before they may be refused.

    Raises:
      DataError, RunError: as `prepare`.
    """
    distributed.usable_devices(config.batch_size, config.num_devices)
    data = run_data.describe(config)
    show(data.summary)
    fitting.check_sizes(config, data)


def _place_state(
    mesh: Mesh,
    create: Callable,
    key: chex.PRNGKey,
    labels: np.ndarray,
    given: dict[str, Any],
) -> tuple[TrainState, TrainState, TrainState]:
    """Returns the specs and the formats of a state, and the state, on its devices."""
    padding = distributed.padded_rows(len(labels), mesh.size) - len(labels)
    labels = np.pad(labels, (0, padding), constant_values=-1)
    shapes = jax.eval_shape(create, key, labels, given)
    specs = state_specs(shapes)
    formats = distributed.formats(mesh, specs, shapes)
    return specs, formats, jax.jit(create, out_shardings=formats)(key, labels, given)


def state_specs(state: TrainState) -> TrainState:
    """Returns the specs of a state: Lambda is sharded by rows, the rest replicated."""
    tables = {
        name: REPLICATED if len(table) == 1 else BY_ROWS
        for name, table in state.tables.items()
    }
    everywhere: Any = TrainState(*[REPLICATED] * len(state))  # type: ignore[arg-type]
    by_rows: Any = RowRMSpropState(REPLICATED, nu=tables, last_touch=tables)
    kept: Any = snapshot.Kept(tables, REPLICATED, REPLICATED) if state.kept else ()
    return everywhere._replace(tables=tables, hyper_optimizer_state=by_rows, kept=kept)


def _parts(config: ml_collections.ConfigDict, data: RunData) -> dict[str, Dataset]:
    """Returns the data sets of the batch plan, by name."""
    parts = data.splits._asdict()
    if data.fit is not data.splits.train:
        parts["fit"] = data.fit
    if config_lib.joined_epochs(config) and not config_lib.is_solved(config):
        parts["joined"] = parts["train"].join(parts["validation"])
    return parts


def _plan(
    config: ml_collections.ConfigDict,
    data: RunData,
    num_devices: int,
) -> BatchPlan:
    parts = _parts(config, data)
    num_points = {name: len(part.labels) for name, part in parts.items()}
    learns = config_lib.has_hyperparams(config.hyper) and not config.hyper.frozen
    clean_labels = data.splits.validation.labels
    early = joined.early(config, clean_labels)
    num_train = num_points["train"]

    def with_clean(index: np.ndarray) -> np.ndarray:
        labels = data.splits.train.labels
        times = joined.copies(config, labels, clean_labels[index])
        return np.r_[:num_train, num_train + np.repeat(index, times)]

    inner_only = early | snapshot.held_out(config, clean_labels)
    return BatchPlan(
        num_points=num_points,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        num_devices=num_devices,
        epochs=config.epochs,
        start_epoch=config.hyper.start_epoch if learns else config.epochs,
        seed=config.seed,
        joined_epochs=config_lib.joined_epochs(config) if "joined" in parts else 0,
        plain_epochs=config_lib.plain_epochs(config) if "joined" in parts else 0,
        joined_points=with_clean(np.arange(len(early))) if "joined" in parts else None,
        early_points=with_clean(np.flatnonzero(early)) if early.any() else None,
        outer_points=np.flatnonzero(~inner_only) if inner_only.any() else None,
    )


def _feed(
    config: ml_collections.ConfigDict,
    data: RunData,
    plan: BatchPlan,
    mesh: Mesh,
) -> tuple[Feed, Any]:
    """Returns the feed, and the specs of the points of a step."""
    parts = _parts(config, data)
    if not config.data.stream:
        packs = pack if distributed.is_tpu(mesh) else lambda images: (images, None)
        packed = {name: packs(part.pixels()) for name, part in parts.items()}
        resident = {
            name: distributed.place(mesh, (packed[name][0], part.labels))
            for name, part in parts.items()
        }
        # XLA's convolutions are many times slower within a loop on CPUs.
        is_cpu = mesh.devices.flat[0].platform == "cpu"
        steps_per_dispatch = config.steps_per_dispatch or (
            1 if is_cpu else _STEPS_PER_DISPATCH
        )
        shapes = {name: shape for name, (_, shape) in packed.items()}
        return ResidentBatches(plan, resident, steps_per_dispatch, shapes), REPLICATED
    by_rows = NamedSharding(mesh, BY_ROWS)

    def to_device(batch: Batch) -> Batch:
        image, label = (
            jax.make_array_from_process_local_data(by_rows, local)
            for local in (batch.image, batch.label)
        )
        return batch._replace(image=image, label=label)

    feed = streamed.StreamedBatches(
        plan,
        parts,
        to_device=to_device,
        num_workers=config.data.num_workers,
        share=streamed.Share(jax.process_index(), jax.process_count()),
    )
    return feed, Batch(BY_ROWS, BY_ROWS, REPLICATED)
