"""The inner problem of a head, and its minimum, against numpy and scikit-learn."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from autodo_jax import config as config_lib
from autodo_jax import models, objective
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.train import newton, problem, solves

RNG = np.random.default_rng(0)
C = 3
VARIANCE = 0.5


def config_of(method="autodo", **model):
    config = config_lib.default_config()
    config_lib.use_features(config, method)
    config.task.prior_variance = VARIANCE
    config.task.tolerance = 1e-5
    config.model.update(model)
    return config


def made_up(num_train, num_clean, width):
    """Correlated features with an offset, and a constant one."""
    mixing = RNG.normal(size=(width, width)) / np.sqrt(width)
    x = RNG.normal(size=(num_train + num_clean, width)) @ mixing + 3
    x[:, 0] = 7
    y = np.argmax(x[:, 1 : 1 + C] + RNG.normal(size=(len(x), C)), axis=1)
    return (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])


def prepared(data, config=None):
    """Returns a problem with its points, and the constants of its axes."""
    train, clean = data
    config = config_of() if config is None else config
    constants = problem.principal_axes(train[0], clean[0])
    z, clean_z = (problem.coordinates(x, constants) for x in (train[0], clean[0]))
    points = problem.Points(
        jnp.asarray(z),
        jnp.asarray(train[1]),
        jnp.asarray(clean_z),
        jnp.asarray(clean[1]),
        jnp.mean(jnp.asarray(z) ** 2, axis=0),
    )
    model = models.create(config.model, C)
    inner = problem.Problem(objective.create(config, model), config.task.prior_variance)
    params = model.init(jax.random.key(0), points.clean[:1], train=False)["params"]
    return types.SimpleNamespace(
        inner=inner, points=points, constants=constants, params=params, config=config
    )


@pytest.fixture(scope="module")
def wide():
    """Fewer points than features."""
    return made_up(30, 12, 60)


@pytest.fixture(scope="module")
def high():
    """More points than features."""
    return made_up(90, 30, 8)


@pytest.mark.parametrize("shape", ["wide", "high"])
def test_axes_keep_all_products_of_standardised_features(shape, request):
    train, clean = request.getfixturevalue(shape)
    constants = problem.principal_axes(train[0], clean[0])
    scale = np.where(train[0].std(0) > 1e-9, train[0].std(0), np.inf)
    both = (np.concatenate([train[0], clean[0]]) - train[0].mean(0)) / scale
    z = problem.coordinates(np.concatenate([train[0], clean[0]]), constants)
    np.testing.assert_allclose(z @ z.T, both @ both.T, atol=2e-3)
    products = z.T @ z
    off = products - np.diag(np.diag(products))
    assert np.abs(off).max() < 1e-4 * np.diag(products).max()
    assert z.shape[1] <= min(both.shape[1] - 1, len(both))


def fitted(data, part):
    """Returns the logits of the clean points at the minimum for the given labels."""
    ready = prepared(data, config_of("baseline"))
    inner = ready.inner

    def curvature(theta):
        matvec = inner.curvature(inner.inner_loss, theta, {}, (ready.points, part))
        return matvec, inner.preconditioner(theta, {}, ready.points, part)

    found = newton.minimize(
        lambda theta: inner.inner_loss(theta, {}, ready.points, part),
        curvature,
        problem.transposed(ready.params),
        tolerance=1e-5,
    )
    assert float(found.grad_norm) <= float(found.limit)
    return inner.logits(found.theta, ready.points.clean), found


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["wide", "high"])
@pytest.mark.parametrize("with_clean", [False, True])
def test_the_minimum_is_that_of_scikit_learn(shape, with_clean, request):
    train, clean = data = request.getfixturevalue(shape)
    part = problem.Part(
        jnp.ones(len(train[1])), jnp.full(len(clean[1]), float(with_clean))
    )
    logits, found = fitted(data, part)
    assert int(found.num_steps) < 15
    scale = np.where(train[0].std(0) > 1e-9, train[0].std(0), np.inf)
    x, clean_x = ((part[0] - train[0].mean(0)) / scale for part in (train, clean))
    y = train[1]
    if with_clean:
        x, y = np.concatenate([x, clean_x]), np.concatenate([y, clean[1]])
    num_features = train[0].shape[1] - 1  # One is constant.
    model = LogisticRegression(C=VARIANCE / num_features, tol=1e-8, max_iter=10000)
    expected = model.fit(x, y).decision_function(clean_x)
    logits = np.asarray(logits)
    np.testing.assert_allclose(
        logits - logits.mean(axis=1, keepdims=True),
        expected - expected.mean(axis=1, keepdims=True),
        atol=2e-3,
    )


@pytest.mark.parametrize("columns", [2 * C, 128])
def test_heads_are_solved_for_the_points_of_each(high, columns, monkeypatch):
    """All at once, or by so many columns; against scikit-learn, one by one."""
    monkeypatch.setattr(solves, "_COLUMNS", columns)
    train, clean = high
    ready = prepared(high, config_of("joined"))
    functions = solves.create(ready.config, ready.inner, ready.points, ready.params)
    rng = np.random.default_rng(1)
    chosen, taking_part = rng.random((4, 30)) < 0.5, rng.random((4, 90)) < 0.6
    heads, _ = functions.fit(
        functions.start(4), 1.0 * jnp.asarray(chosen), 1.0 * jnp.asarray(taking_part)
    )
    scale = np.where(train[0].std(0) > 1e-9, train[0].std(0), np.inf)
    x, clean_x = ((part[0] - train[0].mean(0)) / scale for part in (train, clean))
    model = LogisticRegression(C=VARIANCE / 7, tol=1e-8, max_iter=10000)
    for k, logits in enumerate(np.asarray(heads.clean_logits)):
        points = np.concatenate([x[taking_part[k]], clean_x[chosen[k]]])
        labels = np.concatenate([train[1][taking_part[k]], clean[1][chosen[k]]])
        expected = model.fit(points, labels).decision_function(clean_x)
        np.testing.assert_allclose(
            logits - logits.mean(axis=1, keepdims=True),
            expected - expected.mean(axis=1, keepdims=True),
            atol=3e-3,
        )


def test_the_curvature_is_that_of_softmax_regression(high):
    ready = prepared(high)
    theta = jax.tree.map(lambda leaf: leaf + 0.1, ready.params)
    theta["head"]["kernel"] = jnp.asarray(
        RNG.normal(size=theta["head"]["kernel"].shape), jnp.float32
    )
    theta = problem.transposed(theta)
    rows = {"weight": jnp.asarray(RNG.normal(size=90), jnp.float32)}
    part = problem.Part(jnp.ones(90), jnp.ones(30))
    v = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), theta)
    v = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), v)
    matvec = ready.inner.curvature(
        ready.inner.inner_loss, theta, rows, (ready.points, part)
    )
    found = matvec(v)["head"]["kernel"].T
    z = np.concatenate([ready.points.train, ready.points.clean]).astype(np.float64)
    kernel, bias = (np.asarray(theta["head"][name]).T for name in ("kernel", "bias"))
    logits = z @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    moved = z @ np.asarray(v["head"]["kernel"]).T + np.asarray(v["head"]["bias"])
    w = np.concatenate([np.log1p(np.exp(rows["weight"])) / np.log(2), np.ones(30)])
    curved = w[:, None] * p * (moved - (p * moved).sum(1, keepdims=True))
    penalty = 7 / VARIANCE  # D of the features that vary, over the variance
    expected = (z.T @ curved + penalty * np.asarray(v["head"]["kernel"]).T) / 120
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_a_step_goes_down_the_derivative_of_the_solved_problem(high):
    """The hypergradient of the weights against differences of whole solves."""
    ready = prepared(high, config_of("autodo_w"))
    ready.config.task.joined_epochs = 0
    ready.config.hyper.learning_rate = 1e-2
    functions = solves.create(ready.config, ready.inner, ready.points, ready.params)
    chosen = jnp.asarray(np.arange(30) % 2, jnp.float32)

    def solved(weight):
        start = functions.start(1)._replace(tables={"weight": jnp.asarray([weight])})
        head, _ = functions.fit(start, chosen[None])
        theta = problem.transposed(jax.tree.map(lambda leaf: leaf[0], head.theta))
        loss = ready.inner.outer_loss(theta, {}, ready.points, chosen)
        return float(loss), head

    start = np.zeros(90, np.float32)
    _, head = solved(start)
    moved, values = functions.learn(head, chosen[None])
    direction = -np.asarray(moved.tables["weight"][0])
    assert np.sqrt(np.mean(direction**2)) == pytest.approx(1e-2, rel=1e-4)
    grad = direction / np.linalg.norm(direction) * float(values["hypergrad_norm"][0])
    step = 20 * direction / np.linalg.norm(direction)
    slope = (solved(start + step)[0] - solved(start - step)[0]) / 40
    small = 2 * direction / np.linalg.norm(direction)
    fine = (solved(start + small)[0] - solved(start - small)[0]) / 4
    # The third derivative is taken out of the two differences.
    slope = fine + (fine - slope) * 4 / (400 - 4)
    assert slope == pytest.approx(np.linalg.norm(grad), rel=0.05)


@pytest.mark.slow
def test_a_head_with_a_hidden_layer_is_solved(high):
    config = config_of("baseline", name="hidden_layer", hidden=5)
    ready = prepared(high, config)
    functions = solves.create(config, ready.inner, ready.points, ready.params)
    heads, values = functions.fit(functions.start(2), jnp.ones((2, 30)))
    assert (values["grad_norm"] < 2e-3 * heads.start_norm).all()
    tables = hyperparams.init(jnp.zeros(1, int), num_classes=C)
    part = problem.Part(jnp.ones(90), jnp.zeros(30))
    at = [
        float(
            ready.inner.inner_loss(
                problem.transposed(theta), tables, ready.points, part
            )
        )
        for theta in (ready.params, jax.tree.map(lambda leaf: leaf[1], heads.theta))
    ]
    assert at[1] < at[0]
