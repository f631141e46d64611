"""Accuracy of a Meta-Weight-Net with cold and with warm starts, over many seeds.

    python benchmarks/warm_starts.py [--json=PATH] [--seeds=20]

A small network weighs each train point by its loss (Shu et al., 2019), on digits with
40 % of the labels drawn at random. Far from the minimum the Hessian of the weighted
loss is indefinite. A seed draws the split, the wrong labels and both networks, the same
for all solvers, so that differences are paired.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from autodo_jax.implicit import solvers, value_and_hypergrad

NUM_OUTER, NUM_INNER, NUM_FIRST = 200, 20, 500
NUM_TRAIN, NUM_VALIDATION = 600, 200
SOLVERS: dict[str, solvers.Solver] = {
    "neumann(20)": solvers.neumann(20),
    "conjugate_gradient(10)": solvers.conjugate_gradient(10),
    "minres(10)": solvers.minres(10),
}
COLD, WARM = "cold", "warm"
REFERENCE = f"neumann(20), {COLD}"


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write all rows to")
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    rows: list[dict] = []
    for seed in range(options.seeds):
        for name, solver in SOLVERS.items():
            for start in (COLD, WARM):
                rows.append({"seed": seed, "solver": f"{name}, {start}"})
                rows[-1] |= outcome(solver, seed, is_warm=start == WARM)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
        if options.json:
            lines = ",\n ".join(map(json.dumps, rows))
            options.json.write_text(f"[\n {lines}\n]\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """Returns means over the seeds with standard errors, and paired differences."""
    by_solver: dict[str, list[dict]] = {}
    for row in rows:
        by_solver.setdefault(row["solver"], []).append(row)
    reference = accuracies(by_solver[REFERENCE])
    lines = [
        "| solver, start | accuracy | deviation over seeds | minus the first | "
        "largest residual |",
        "|---|---|---|---|---|",
    ]
    for name, some in by_solver.items():
        difference = accuracies(some) - reference
        largest = max(row["largest_residual"] for row in some)
        lines.append(
            f"| {name} | {with_error(accuracies(some))} | "
            f"{np.std(accuracies(some), ddof=1):.3f} | {with_error(difference)} | "
            f"{largest:.2f} |"
        )
    return "\n".join(lines)


def accuracies(rows: list[dict]) -> np.ndarray:
    return np.array([row["accuracy"] for row in rows])


def with_error(values: np.ndarray) -> str:
    """Returns the mean with its standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.4f} ± {error:.4f}"


def outcome(solver: solvers.Solver, seed: int, is_warm: bool) -> dict:
    """Trains, and returns the test accuracy and what the solves said of themselves."""
    train_data, validation, test = digits(seed)
    w, finite, residuals = train(
        *start_at(seed), train_data, validation, solver=solver, is_warm=is_warm
    )
    return {
        "accuracy": round(accuracy(w, *test), 4),
        "finite": bool(np.all(finite)),
        "largest_residual": round(float(np.max(residuals)), 4),
        "median_residual": round(float(np.median(residuals)), 4),
    }


def digits(seed: int) -> tuple:
    """Train points, 40 % of them with a random label, clean validation and test."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    x, y = x[order].astype(np.float32) / 16, y[order]
    parts = np.split(np.arange(len(y)), [NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION])
    noisy = y.copy()
    wrong = rng.random(NUM_TRAIN) < 0.4
    noisy[:NUM_TRAIN][wrong] = rng.integers(0, 10, wrong.sum())
    return tuple((jnp.asarray(x[part]), jnp.asarray(noisy[part])) for part in parts)


def losses(w, x, y):
    hidden = jnp.tanh(x @ w["w1"] + w["b1"][None])
    logits = hidden @ w["w2"] + w["b2"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def inner(w, lam, x, y):
    each = losses(w, x, y)
    hidden = jnp.tanh(each[:, None] * lam["a"][None] + lam["b"][None])
    weights = jax.nn.sigmoid(hidden @ lam["c"])
    return jnp.mean(weights * each) + 5e-4 * optax.tree.norm(w, squared=True)


def outer(w, lam, x, y):
    del lam
    return jnp.mean(losses(w, x, y))


def start_at(seed: int) -> tuple:
    """Returns both networks as they are drawn."""
    rng = np.random.default_rng(seed + 1)
    w = {
        "w1": 0.2 * rng.standard_normal((64, 16)),
        "b1": np.zeros(16),
        "w2": 0.3 * rng.standard_normal((16, 10)),
        "b2": np.zeros(10),
    }
    lam = {"a": rng.standard_normal(8), "b": np.zeros(8), "c": np.zeros(8)}
    return jax.tree.map(jnp.float32, (w, lam))


def descend(w, lam, data, num_steps):
    """Returns the weights after steps of gradient descent on the inner loss."""

    def step(w, _):
        slope = jax.grad(inner)(w, lam, *data)
        return jax.tree.map(lambda a, g: a - 0.5 * g, w, slope), None

    return jax.lax.scan(step, w, None, num_steps)[0]


@functools.partial(jax.jit, static_argnames=("solver", "is_warm"))
def train(w, lam, train_data, validation, *, solver, is_warm):
    """Returns the weights, and of each outer step if it is finite and the residual."""
    adam = optax.adam(1e-2)

    def step(state, _):
        w, lam, moments, x0 = state
        w = descend(w, lam, train_data, NUM_INNER)
        _, grads, info = value_and_hypergrad(
            inner,
            outer,
            w,
            lam,
            inner_args=train_data,
            outer_args=validation,
            solver=solver,
            x0=x0 if is_warm else None,
        )
        updates, moments = adam.update(grads, moments)
        state = w, optax.apply_updates(lam, updates), moments, info.solution
        return state, (info.grads_finite, info.residual_norm)

    w = descend(w, lam, train_data, NUM_FIRST)
    state = w, lam, adam.init(lam), jax.tree.map(jnp.zeros_like, w)
    (w, _, _, _), (finite, residuals) = jax.lax.scan(step, state, None, NUM_OUTER)
    return w, finite, residuals


def accuracy(w, x, y) -> float:
    hidden = np.tanh(np.asarray(x @ w["w1"] + w["b1"][None]))
    logits = hidden @ w["w2"] + w["b2"][None]
    return float(np.mean(np.argmax(logits, 1) == np.asarray(y)))


if __name__ == "__main__":
    main()
