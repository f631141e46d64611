"""The hypergradient benchmark: its reference, our rows, and what it says of peers.

The peers are not needed: systems with known faults take their place.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import hypergrad as benchmark
from benchmarks import hypergrad_compile as compile_time
from benchmarks import hypergrad_peers as peers
from benchmarks import hypergrad_problems as problems


@pytest.fixture(scope="module", params=["softmax regression", "MLP"])
def problem(request):
    # So few points leave a network's Hessian indefinite with a weaker penalty.
    sizes, penalty = {
        "softmax regression": ((12, 4), 0.02),
        "MLP": ((12, 6, 6, 4), 0.2),
    }[request.param]
    return problems.make_problem(request.param, sizes, batch=40, penalty=penalty)


def double_loss(params, hparams, batch):
    """The inner loss once more, in float64 and without derivatives."""
    x, labels = batch
    for i in range(0, len(params), 2):
        x = (np.tanh(x) if i else x) @ params[i].T + params[i + 1]
    log_sum = np.log(np.exp(x).sum(axis=1))
    data = np.mean(log_sum - x[np.arange(len(labels)), labels])
    pairs = zip(params, hparams, strict=True)
    return data + sum(np.sum(np.exp(lam) * w**2) for w, lam in pairs) / 2


def test_derivatives_of_the_reference_equal_finite_differences(problem):
    params = [leaf.astype(np.float64) for leaf in problem.params]
    hparams = [leaf.astype(np.float64) for leaf in problem.hparams]
    train = problem.train[0].astype(np.float64), problem.train[1]
    rng = np.random.default_rng(1)
    u, v = ([rng.normal(size=leaf.shape) for leaf in params] for _ in range(2))

    def loss(s, t, lams=hparams):
        point = [w + s * a + t * b for w, a, b in zip(params, u, v, strict=True)]
        return double_loss(point, lams, train)

    no_penalty = [np.full_like(lam, -np.inf) for lam in hparams]
    h = 1e-3
    slope = (loss(h, 0, no_penalty) - loss(-h, 0, no_penalty)) / (2 * h)
    bend = (loss(h, h) - loss(h, -h) - loss(-h, h) + loss(-h, -h)) / (4 * h**2)
    gradient = problems.gradient(problem.params, problem.train)
    product = problems.hessian_product(problem.params, problem.hparams, problem.train)
    along = sum(np.vdot(a, b) for a, b in zip(u, gradient, strict=True))
    across = sum(np.vdot(a, b) for a, b in zip(u, product(v), strict=True))
    np.testing.assert_allclose(along, slope, rtol=1e-4)
    np.testing.assert_allclose(across, bend, rtol=1e-4)


def test_converged_reference_equals_a_dense_solve(problem):
    product = problems.hessian_product(problem.params, problem.hparams, problem.train)
    shapes = [leaf.shape for leaf in problem.params]
    ends = np.cumsum([leaf.size for leaf in problem.params])[:-1]

    def column(flat):
        parts = np.split(flat, ends)
        image = product([p.reshape(s) for p, s in zip(parts, shapes, strict=True)])
        return np.concatenate([leaf.ravel() for leaf in image])

    matrix = np.stack([column(row) for row in np.eye(problem.size)])
    b = problems.gradient(problem.params, problem.valid)
    x = np.linalg.solve(matrix, np.concatenate([leaf.ravel() for leaf in b]))
    scale = [
        (np.exp(lam.astype(np.float64)) * w).ravel()
        for lam, w in zip(problem.hparams, problem.params, strict=True)
    ]
    expected = -np.concatenate(scale) * x
    for method, count in (("cg", problem.size), ("neumann", 4000)):
        flat, residual = problems.reference(problem, method, count)
        assert residual < 1e-6, method
        np.testing.assert_allclose(flat, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("method", peers.BOTH)
@pytest.mark.parametrize("count", [3, 8, 12])
def test_our_rows_do_the_work_they_are_timed_for(problem, method, count, x64):
    truth, residual = problems.reference(problem, method, count)
    assert residual > 1e-5  # Not converged: another number of products would show.
    # In double precision, as roundoff soon changes the path of conjugate gradients.
    double = dataclasses.replace(
        problem,
        params=tuple(leaf.astype(np.float64) for leaf in problem.params),
        hparams=tuple(leaf.astype(np.float64) for leaf in problem.hparams),
        train=(problem.train[0].astype(np.float64), problem.train[1]),
        valid=(problem.valid[0].astype(np.float64), problem.valid[1]),
    )
    flat = peers.flatten(peers.ours(double, method, count)())
    assert np.linalg.norm(flat - truth) < 1e-9 * np.linalg.norm(truth)


def test_a_case_shows_missing_and_wrong_systems(problem, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'absent'")

    def wrong(*arguments):
        call = peers.ours(*arguments)
        return lambda: [leaf * 1.001 for leaf in call()]

    stand_ins = (
        peers.SYSTEMS[0],
        peers.System("missing", "torch", peers.BOTH, missing),
        peers.System("wrong", "torch", peers.BOTH, wrong, {"cg": "off by 0.1 %"}),
        peers.System("other", "jax", ("neumann",), missing),
    )
    monkeypatch.setattr(peers, "SYSTEMS", stand_ins)
    monkeypatch.setattr(benchmark, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "MAX_FOREIGN", np.inf)  # Other tests may run.
    case = benchmark.run_case(problem, "cg", 3, 2, benchmark.IdleCores(0))
    shown = benchmark.table(case)
    assert "unavailable: ModuleNotFoundError: No module named 'absent'" in shown
    assert "WRONG: off by 0.1 %" in shown
    assert "has no cg solver" in shown
    assert case["rows"][0]["agrees"]
    assert case["rows"][0]["num_samples"] == 2
    assert json.loads(benchmark.as_json({}, [case], []))["cases"] == [case]
    # Neither the wrong nor the missing system counts as a rival.
    case["count"] = 20
    assert len(benchmark.verdicts([case])) == 1


def test_disturbed_turns_are_left_out_of_the_statistics():
    turns = [
        {"seconds": [1.0, 2.0], "foreign": 0.0},
        {"seconds": [9.0], "foreign": 0.3},
    ]
    row = {"turns": turns}
    benchmark.summarize(row)
    assert (row["median"], row["slowest"], row["disturbed"]) == (1.5, 2.0, False)
    row = {"turns": turns[1:]}
    benchmark.summarize(row)
    assert (row["median"], row["disturbed"]) == (9.0, True)


@pytest.mark.parametrize(
    "family, median, holds",
    [("jax", 1.1, True), ("jax", 0.9, False), ("torch", 2.1, True), ("torch", 1.9, 0)],
)
def test_verdicts_by_medians(family, median, holds):
    ours = {"system": "ours", "family": "ours", "agrees": True, "median": 1.0}
    peer = {"system": "peer", "family": family, "agrees": True, "median": median}
    case = {"problem": "p", "method": "cg", "count": 20, "rows": [ours, peer]}
    (line,) = benchmark.verdicts([case])[1:]
    assert ("DOES NOT HOLD" not in line) == holds
    assert f"({median:.2f}x)" in line


@pytest.mark.slow
def test_the_programs_whose_compile_time_is_taken(monkeypatch):
    """They compile, and each row has its samples."""
    monkeypatch.setattr(compile_time, "PEER", "minres(20)")
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    rows = compile_time.measure(2, rounds=1)
    assert all(row["trace"][0] > 0 and row["compile"][0] > 0 for row in rows)
    assert len(compile_time.table(rows).splitlines()) == 2 + len(rows)
