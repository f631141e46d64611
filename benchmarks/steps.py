"""Times the task and hypergradient steps of one method, ours and PyTorch's.

    python benchmarks/steps.py [--json=PATH] [--repeats=9]

Wide residual networks, batch 128 of 32x32, `autodo` (A, W, S) and `autodo_s`, whose A
is off, with the data set's standard augmentation and without a policy. Both have the
same weights, and their hypergradients are compared first, with the same draws. Then all
four steps take turns. FLOPs are those that XLA counts in our compiled steps.
"""

import functools
import statistics
from typing import Any

import common
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import steps_torch
import torch

from autodo_jax.config import apply_method, default_config
from autodo_jax.data.batches.batch import take
from autodo_jax.implicit import value_and_hypergrad
from autodo_jax.implicit.solvers import neumann
from autodo_jax.objective import split_theta
from autodo_jax.train import setup, steps

BATCH, NUM_POINTS, NUM_CLASSES = 128, 10_000, 10
NETWORKS = ((10, 1), (16, 2))
METHODS = ("autodo", "autodo_s")
PLACES = [f"{who} {step}" for who in ("ours", "torch") for step in ("task", "hyper")]


def configuration(method: str, depth: int, width: int) -> ml_collections.ConfigDict:
    """Returns the configuration of CIFAR-10, with a smaller network and no policy."""
    config = default_config()
    apply_method(config, method)
    config.batch_size, config.num_devices = BATCH, 1
    config.steps_per_dispatch = 1
    config.augment.policy = "none"
    config.data.mean, config.data.std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    config.model.depth, config.model.width = depth, width
    return config


class Pair:
    """Our steps and PyTorch's, of the same method, network and data."""

    def __init__(self, config: ml_collections.ConfigDict):
        """Prepares both."""
        self.config = config
        parts = common.random_parts(NUM_POINTS, 32, num_classes=NUM_CLASSES)
        self.setup, self.state = setup.prepare(config, splits=parts)
        self.batches: list[Any] = list(self.setup.feed.batches("hyper", 0))
        model = steps_torch.WideResNet(
            NUM_CLASSES, config.model.depth, config.model.width
        )
        steps_torch.load(model, self.state.params, self.state.batch_stats)
        self.trainer = steps_torch.Trainer(model, self.state.tables, config)
        splits = self.setup.data.splits
        self.data = {
            name: (
                torch.from_numpy(np.array(part.pixels().transpose(0, 3, 1, 2))),
                torch.from_numpy(part.labels.astype(np.int64)),
            )
            for name, part in zip(("train", "validation"), splits, strict=False)
        }

    def taken(self, turn: int) -> tuple[Any, Any, tuple]:
        """Returns PyTorch's (images, index, validation batch) of a turn."""
        points, validation = self.batches[turn % len(self.batches)]
        index, other = (
            torch.from_numpy(np.array(p.index)).long() for p in (points, validation)
        )
        images, labels = self.data["validation"]
        return self.data["train"][0][index], index, (images[other], labels[other])

    def programs(self) -> dict[str, Any]:
        """Returns the four steps, each of which takes its next batch when called."""
        turns = dict.fromkeys(PLACES, 0)

        def next_turn(place):
            turns[place] += 1
            return turns[place]

        def ours(place, step, key, number):
            points = self.batches[next_turn(place) % len(self.batches)][:number]
            self.state, values = step(self.state, *points, key)
            return values

        def theirs(place, step, number):
            step(*self.taken(next_turn(place))[:number])
            return ()

        ready = self.setup
        return {
            "ours task": lambda: ours("ours task", ready.steps.task, ready.task_key, 1),
            "ours hyper": lambda: ours(
                "ours hyper", ready.steps.hyper, ready.hyper_key, 2
            ),
            "torch task": lambda: theirs("torch task", self.trainer.task_step, 2),
            "torch hyper": lambda: theirs("torch hyper", self.trainer.hyper_step, 3),
        }

    def check(self) -> float:
        """Returns the largest difference of the two hypergradients, relative to ours.

        The standard augmentation is off, since its draws differ. The gates are open,
        since at the identity every coordinate is a pixel, where rounding decides
        between two slopes.
        """
        objective, state, hyper = self.setup.objective, self.state, self.config.hyper
        points, validation = self.batches[0]
        train = take(*points)
        outer = take(*validation)
        keys = steps.point_keys(jax.random.key(7), jnp.int32(0), points.index)
        plain = type(objective)(**{**vars(objective), "standard": {"crop_padding": 0}})
        rows = {name: table[points.index] for name, table in state.tables.items()}
        former = {
            name: table.detach().clone() for name, table in self.trainer.tables.items()
        }
        if "gate" in rows:
            rows["gate"] = jnp.full_like(rows["gate"], 5.0)
            self.trainer.tables["gate"].data.fill_(5.0)
        theta, others = split_theta(state.params, "head")
        solver = neumann(hyper.num_terms, hyper.step_size)

        @jax.jit
        @functools.partial(jax.vmap, axis_name=steps.AXIS)  # Batch norm names it.
        def hypergradient(theta, rows, inner_args, outer_args):
            return value_and_hypergrad(
                plain.inner_loss,
                plain.outer_loss,
                theta,
                rows,
                inner_args=inner_args,
                outer_args=outer_args,
                solver=solver,
            )[1]

        operands = (
            theta,
            rows,
            (others, state.batch_stats, train, keys),
            (others, state.batch_stats, outer),
        )
        ours = hypergradient(*jax.tree.map(lambda x: x[None], operands))

        def draw(key):
            gate_key, magnitude_key = jax.random.split(jax.random.split(key, 3)[2])
            shape = (len(steps_torch.OPERATIONS),)
            return (
                jax.random.logistic(gate_key, shape),
                jax.random.normal(magnitude_key, shape),
            )

        draws = tuple(torch.from_numpy(np.array(x)) for x in jax.vmap(draw)(keys))
        images, index, validation_batch = self.taken(0)
        standard = self.trainer.standard
        self.trainer.standard = lambda images: images
        found = self.trainer.hypergradient(images, index, validation_batch, draws)
        self.trainer.standard = standard
        for name, table in former.items():
            self.trainer.tables[name].data.copy_(table)
        worst = 0.0
        for name, gradient in zip(self.trainer.tables, found, strict=True):
            expected = np.asarray(ours[name])[0]
            difference = np.abs(gradient[index].numpy() - expected).max()
            worst = max(worst, difference / np.abs(expected).max())
        return worst

    def flops(self) -> dict[str, float]:
        """Returns the FLOPs of our compiled steps, as XLA counts them."""
        ready: Any = self.setup
        points, validation = self.batches[0]
        lowered = {
            "task": ready.steps.task.lower(self.state, points, ready.task_key),
            "hyper": ready.steps.hyper.lower(
                self.state, points, validation, ready.hyper_key
            ),
        }
        return {
            name: step.compile().cost_analysis()["flops"]
            for name, step in lowered.items()
        }


def main() -> None:
    """Prints the table and keeps the samples."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(common.num_cores())
    peaks = common.peaks()
    print(", ".join(f"{value:.0f} {unit}" for unit, value in peaks.items()))
    results = []
    for depth, width in NETWORKS:
        for method in METHODS:
            pair = Pair(configuration(method, depth, width))
            difference = pair.check()
            assert difference < 1e-2, (method, difference)
            times = common.in_turns(pair.programs(), arguments.repeats)
            medians = {name: statistics.median(ms) for name, ms in times.items()}
            flops = pair.flops()
            ours, theirs = (
                medians[f"{who} hyper"] / medians[f"{who} task"]
                for who in ("ours", "torch")
            )
            print(
                f"WRN-{depth}-{width} {method}: "
                + ", ".join(f"{name} {ms:.0f} ms" for name, ms in medians.items())
                + f"; hyper over task: ours {ours:.2f} (FLOPs "
                f"{flops['hyper'] / flops['task']:.3f}), torch {theirs:.2f}, "
                f"{theirs / ours:.2f} x; difference {difference:.1e}",
                flush=True,
            )
            results.append(
                {
                    "depth": depth,
                    "width": width,
                    "method": method,
                    "flops": flops,
                    "difference": float(difference),
                    "milliseconds": times,
                }
            )
    common.write(
        arguments.json, batch=BATCH, points=NUM_POINTS, peaks=peaks, results=results
    )


if __name__ == "__main__":
    main()
