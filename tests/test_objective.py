"""The trainer's hypergradient in its rows against dense solves, in double precision.

The references know nothing of `autodo_jax.implicit`: dense Hessian and mixed derivative
of the loss, and for weights and soft labels formulas of softmax regression in numpy.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from autodo_jax import objective
from autodo_jax.augment import learned, standard
from autodo_jax.data.batches.batch import Batch
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.implicit import solvers, value_and_hypergrad
from autodo_jax.models import small_cnn
from autodo_jax.models.small_cnn import SmallCNN
from autodo_jax.train.steps import point_keys

NUM_CLASSES, POINTS, WEIGHT_DECAY = 3, 5, 0.02
OPERATIONS = ("rotate", "scale", "translate_x", "translate_y", "shear_x", "shear_y")


class Problem:
    """A tiny network and two batches, with Lambda away from its start."""

    def __init__(
        self, *, augment="none", weights=False, soft_labels=False, theta="head"
    ):
        rng = np.random.default_rng(0)
        model = SmallCNN(NUM_CLASSES, widths=(3, 2), dtype=jnp.float64)
        self.loss = objective.Objective(
            model=model,
            mean=(0.4,),
            std=(0.3,),
            policy=lambda keys, images: images,
            standard=functools.partial(standard.augment, crop_padding=1, fill=(0.4,)),
            learned=functools.partial(learned.augment, operations=OPERATIONS),
            crop_size=0,
            symmetric_kl=True,
            weight_decay=WEIGHT_DECAY,
        )

        def batch():
            images = rng.integers(0, 256, (POINTS, 6, 6, 1)).astype(np.uint8)
            labels = rng.integers(0, NUM_CLASSES, POINTS)
            return Batch(jnp.asarray(images), jnp.asarray(labels), jnp.arange(POINTS))

        self.train, self.validation = batch(), batch()
        self.keys = point_keys(jax.random.key(1), jnp.int32(3), self.train.index)
        init = jax.jit(functools.partial(model.init, train=False))
        variables = init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        self.stats = variables["batch_stats"]
        self.theta, self.others = objective.split_theta(variables["params"], theta)
        tables = hyperparams.init(
            self.train.label,
            num_classes=NUM_CLASSES,
            augment=augment,
            gate_probability=0.5,
            weights=weights,
            soft_labels=soft_labels,
        )
        self.rows = {
            name: jnp.asarray(rows + 0.3 * rng.normal(size=rows.shape))
            for name, table in tables.items()
            # The one row of a shared table goes to all points.
            for rows in [jnp.broadcast_to(table, (POINTS, *table.shape[1:]))]
        }

    @property
    def inner_args(self):
        return self.others, self.stats, self.train, self.keys

    @property
    def outer_args(self):
        return self.others, self.stats, self.validation

    def ours(self, solver):
        @jax.jit
        def step(rows, inner_args, outer_args):
            return value_and_hypergrad(
                self.loss.inner_loss,
                self.loss.outer_loss,
                self.theta,
                rows,
                inner_args=inner_args,
                outer_args=outer_args,
                solver=solver,
            )

        return step(self.rows, self.inner_args, self.outer_args)

    @functools.cached_property
    def solved(self):
        return self.ours(solvers.dense())

    @functools.cached_property
    def pieces(self):
        """(g, H, M): outer gradient, Hessian, mixed derivative of the flat rows."""
        flat_theta, unravel_theta = jax.flatten_util.ravel_pytree(self.theta)
        flat_rows, unravel_rows = jax.flatten_util.ravel_pytree(self.rows)

        def inner(theta, rows):
            return self.loss.inner_loss(
                unravel_theta(theta), unravel_rows(rows), *self.inner_args
            )

        def outer(theta):
            return self.loss.outer_loss(
                unravel_theta(theta), self.rows, *self.outer_args
            )

        @jax.jit
        def pieces(theta, rows):
            mixed = jax.jacrev(jax.grad(inner), 1)(theta, rows)
            hessian = jax.hessian(inner)(theta, rows)
            return jax.grad(outer)(theta), hessian, mixed

        return [np.asarray(part) for part in pieces(flat_theta, flat_rows)]


problem_of = functools.cache(Problem)  # Compiled once for all that is asked of it.
SUB_MODELS: dict[str, dict[str, Any]] = {
    "A": {"augment": "per_point"},
    "A shared": {"augment": "shared"},
    "W": {"weights": True},
    "S": {"soft_labels": True},
    "A,W,S": {"augment": "per_point", "weights": True, "soft_labels": True},
}


@pytest.mark.parametrize("name", SUB_MODELS)
def test_row_gradient_equals_dense_solve(x64, name):
    problem = problem_of(**SUB_MODELS[name])
    _, grads, info = problem.solved
    outer_grad, hessian, mixed = problem.pieces
    expected = -mixed.T @ np.linalg.solve(hessian, outer_grad)
    got, _ = jax.flatten_util.ravel_pytree(grads)
    assert np.abs(expected).max() > 1e-4
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * scale)
    assert float(info.residual_norm) < 1e-10


def test_theta_may_be_all_parameters(x64):
    problem = Problem(augment="per_point", soft_labels=True, theta="all")
    assert set(problem.theta) > {"head"} and not problem.others
    # Damped, for away from a minimum the whole network's Hessian is indefinite.
    _, grads, _ = problem.ours(solvers.dense(damping=0.5))
    outer_grad, hessian, mixed = problem.pieces
    system = hessian + 0.5 * np.eye(len(hessian))
    expected = -mixed.T @ np.linalg.solve(system, outer_grad)
    got, _ = jax.flatten_util.ravel_pytree(grads)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * scale)


def test_row_gradient_of_the_papers_budget_equals_the_partial_sum(x64):
    problem = problem_of(**SUB_MODELS["A,W,S"])
    _, grads, _ = problem.ours(solvers.neumann(5, 0.01))
    outer_grad, hessian, mixed = problem.pieces
    power, total = outer_grad, outer_grad
    for _ in range(5):
        power = power - 0.01 * hessian @ power
        total = total + power
    got, _ = jax.flatten_util.ravel_pytree(grads)
    np.testing.assert_allclose(got, -0.01 * mixed.T @ total, rtol=1e-8, atol=1e-14)


def softmax_regression(problem):
    """Features and probabilities of the train batch, in numpy."""

    @jax.jit
    def encode(others, stats, images, keys):
        return problem.loss.model.apply(
            {"params": others, "batch_stats": stats},
            problem.loss.inputs({}, images, keys),
            train=False,
            method="features",
        )

    features = encode(problem.others, problem.stats, problem.train.image, problem.keys)
    head = problem.theta["head"]
    with_bias = np.concatenate([np.ones((POINTS, 1)), np.asarray(features)], 1)
    weights = np.concatenate(
        [np.asarray(head["bias"])[None], np.asarray(head["kernel"])]
    )
    return with_bias, scipy.special.softmax(with_bias @ weights, axis=1)


def closed_form(problem, x, point_mixed):
    """`-M' H^-1 g` with M from `d(point loss)/d logits` derivatives [B, C, ...]."""
    outer_grad, hessian, _ = problem.pieces
    solution = np.linalg.solve(hessian, outer_grad).reshape(x.shape[1], NUM_CLASSES)
    along = x @ solution  # [B, C]: what a step along the solution does to the logits
    return -np.einsum("bc,bc...->b...", along, point_mixed) / POINTS


def test_weight_gradient_equals_softmax_regressions_closed_form(x64):
    problem = problem_of(**SUB_MODELS["W"])
    x, p = softmax_regression(problem)
    one_hot = np.eye(NUM_CLASSES)[problem.train.label]
    slope = scipy.special.expit(np.asarray(problem.rows["weight"])) / np.log(2)
    expected = closed_form(problem, x, (p - one_hot) * slope[:, None])
    got = problem.solved[1]["weight"]
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12)


def test_soft_label_gradient_equals_softmax_regressions_closed_form(x64):
    problem = problem_of(**SUB_MODELS["S"])
    x, p = softmax_regression(problem)
    y = scipy.special.softmax(np.asarray(problem.rows["label"]), axis=1)
    # d/dz_c of [KL(y|p) + KL(p|y)] / 2 = [p - y + p (r - sum p r)] / 2, r = log(p/y);
    # its derivative in log y_k, then in the logits of y.
    eye = np.eye(NUM_CLASSES)
    in_y = -eye * y[:, None]
    in_log_y = -p[:, :, None] * (eye - p[:, None])
    in_log_y = (in_y + in_log_y) / 2
    log_softmax = eye - y[:, None]  # d log y_k / d lambda_l = delta_kl - y_l
    point_mixed = np.einsum("bck,bkl->bcl", in_log_y, log_softmax)
    expected = closed_form(problem, x, point_mixed)
    got = problem.solved[1]["label"]
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12)


def test_weight_decay_is_part_of_the_inner_loss(x64):
    problem = problem_of(**SUB_MODELS["W"])
    _, hessian, _ = problem.pieces
    # The softmax does not see a shift of all logits, so only the decay curves there.
    shift = np.zeros_like(np.asarray(problem.theta["head"]["kernel"]))
    flat = jax.flatten_util.ravel_pytree(
        {"head": {"bias": jnp.ones(NUM_CLASSES), "kernel": jnp.asarray(shift)}}
    )[0]
    np.testing.assert_allclose(flat @ hessian @ flat, WEIGHT_DECAY * NUM_CLASSES)


def num_convolutions(problem):
    """Convolutions in the compiled hypergradient."""
    hypergradient = jax.jit(
        lambda rows, inner_args, outer_args: value_and_hypergrad(
            problem.loss.inner_loss,
            problem.loss.outer_loss,
            problem.theta,
            rows,
            inner_args=inner_args,
            outer_args=outer_args,
            solver=solvers.neumann(5, 0.01),
        )[1]
    )
    lowered = hypergradient.lower(problem.rows, problem.inner_args, problem.outer_args)
    text = lowered.compile().as_text()
    assert text is not None
    return len(re.findall(r"= \S+ convolution\(", text))


def test_one_encoder_pass_a_batch_whatever_the_number_of_products(x64, monkeypatch):
    # As convolutions they can be counted, also on CPUs.
    monkeypatch.setattr(small_cnn, "convolve_patches", None)
    stages = 2  # convolutions of one forward pass
    # A validation and a train pass; with A one more, backward to the images.
    assert num_convolutions(problem_of(**SUB_MODELS["W"])) == 2 * stages
    assert num_convolutions(problem_of(**SUB_MODELS["A"])) == 3 * stages


def test_the_adjustment_is_the_log_of_the_shares():
    """Counts of 8, 2 and 0 train labels and of 2, 2 and 2 clean ones, each one more."""
    labels, clean = np.repeat([0, 1], [8, 2]), np.repeat([0, 1, 2], 2)
    ratio = np.array([9, 3, 1]) / 13 / (3 / 9)
    for strength in (1.0, 0.5):
        found = objective.logit_adjustment(strength, labels, clean, NUM_CLASSES)
        np.testing.assert_allclose(found, strength * np.log(ratio))
    assert objective.logit_adjustment(0.0, labels, clean, NUM_CLASSES) == ()


def test_logits_of_train_points_are_adjusted_in_the_inner_loss_alone(x64):
    """The last two points are clean ones that have joined."""
    problem = problem_of()
    adjustment = (0.5, -1.5, 0.25)
    adjusted = dataclasses.replace(
        problem.loss, adjustment=adjustment, num_train=POINTS - 2
    )
    _, probability = softmax_regression(problem)
    expected = np.log(probability)
    expected[: POINTS - 2] += adjustment
    expected = scipy.special.log_softmax(expected, axis=1)
    others, stats, batch, keys = problem.inner_args
    cross_entropy = -expected[np.arange(POINTS), batch.label].mean()
    penalty = (
        WEIGHT_DECAY / 2 * sum((x**2).sum() for x in jax.tree.leaves(problem.theta))
    )
    found = jax.jit(adjusted.inner_loss)(problem.theta, {}, *problem.inner_args)
    np.testing.assert_allclose(found, cross_entropy + penalty)
    outer = [
        jax.jit(loss.outer_loss)(problem.theta, {}, *problem.outer_args)
        for loss in (adjusted, problem.loss)
    ]
    assert outer[0] == outer[1]
    params = {**others, **problem.theta}
    task = [
        jax.jit(loss.task_loss)(params, stats, {}, batch._replace(index=index), keys)[0]
        for loss, index in (
            (adjusted, batch.index),
            (adjusted, batch.index + POINTS),  # all have joined
            (problem.loss, batch.index),
        )
    ]
    assert abs(task[0] - task[2]) > 1e-3
    assert task[1] == task[2]
