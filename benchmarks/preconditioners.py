"""Iterations and time of preconditioned solves on the network of hypergrad.py.

    python benchmarks/preconditioners.py [--json=PATH] [--quick]

The system is the Gauss-Newton matrix of the cross-entropy plus a penalty `d_i` for each
parameter i, the right-hand side the gradient of the validation loss. Penalties are
those of benchmarks/hypergrad.py times a factor: the smaller, the worse the condition.
The last case has penalties over six decades, as per-parameter penalties learn them.
Setup (estimate and decomposition) and solve are timed apart, in turns, under jit.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autodo_jax.implicit import curvature, preconditioners, solvers
from benchmarks import hypergrad_problems as problems

MAX_ITERS = 1000
TOL = 1e-2
PROBES = 16
NAMES = ("none", "Fisher diagonal", "Hutchinson, 16 products", "Kronecker")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write all rows to")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each row")
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    problem = problems.mlp((20, 8, 8, 5), batch=50) if options.quick else problems.mlp()
    rows = []
    for case, penalties in cases(problem):
        new = measure(problem, penalties, 1 if options.quick else options.rounds)
        rows += [{"case": case} | row for row in new]
        print(table(rows[-len(new) :]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def cases(problem):
    """Yields names and penalties, like the parameters."""
    plain = [np.exp(lam) for lam in problem.hparams]
    for factor in (1, 0.1):
        yield f"penalties x {factor}", [jnp.asarray(factor * p) for p in plain]
    rng = np.random.default_rng(0)
    spread = [10.0 ** rng.uniform(-4, 2, p.shape) for p in plain]
    yield "penalties over six decades", [jnp.float32(p) for p in spread]


def outputs(params, hparams, batch):
    """Logits of the network, whose params are [out, in]."""
    del hparams
    x = batch[0]
    for i in range(0, len(params), 2):
        x = x @ params[i].T + params[i + 1][None]
        x = jnp.tanh(x) if i + 2 < len(params) else x
    return x


def loss_of_logits(logits, params, penalties, batch):
    """Cross-entropy plus penalties: the inner loss by the outputs."""
    pairs = zip(params, penalties, strict=True)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
    return loss + sum(jnp.vdot(d, w**2) for w, d in pairs) / 2


def product_of(params, penalties, batch):
    gauss_newton = curvature.gauss_newton(outputs, loss_of_logits)
    return gauss_newton(problems.inner_loss, params, penalties, (batch,))


def inputs_and_slopes(params, batch, key):
    """Inputs of the layers, and derivatives of the mean loss for drawn labels."""
    layers = len(params) // 2
    zeros = [jnp.zeros((len(batch[0]), b.size)) for b in params[1::2]]

    def forward(shifts):
        x, inputs = batch[0], []
        for i in range(layers):
            inputs.append(x)
            x = x @ params[2 * i].T + params[2 * i + 1][None] + shifts[i]
            x = jnp.tanh(x) if i + 1 < layers else x
        return x, inputs

    logits, pullback, inputs = jax.vjp(forward, zeros, has_aux=True)
    drawn = jax.nn.one_hot(jax.random.categorical(key, logits), logits.shape[1])
    slopes = pullback((jax.nn.softmax(logits) - drawn) / len(logits))[0]
    return inputs, slopes


def make(name, params, penalties, batch):
    """Returns a preconditioner, None for none."""
    smallest = jnp.min(jnp.stack([jnp.min(d) for d in penalties]))
    inputs, slopes = inputs_and_slopes(params, batch, jax.random.key(1))
    num_points = len(batch[0])
    if name == "none":
        return None
    if name == "Hutchinson, 16 products":
        product = product_of(params, penalties, batch)
        found = preconditioners.hutchinson(product, params, jax.random.key(0), PROBES)
        return preconditioners.diagonal(found, smallest)
    squares = [
        leaf
        for x, g in zip(inputs, slopes, strict=True)
        for leaf in ((g**2).T @ x**2 * num_points, jnp.sum(g**2, 0) * num_points)
    ]
    if name == "Fisher diagonal":
        total = [s + d for s, d in zip(squares, penalties, strict=True)]
        return preconditioners.diagonal(tuple(total), smallest)
    factors = []
    for i, (x, g) in enumerate(zip(inputs, slopes, strict=True)):
        bias = squares[2 * i + 1] + penalties[2 * i + 1]
        of_weight = preconditioners.Factors(g.T @ g * num_points, x.T @ x / num_points)
        factors += [of_weight, bias]
    mean = jnp.exp(jnp.mean(jnp.concatenate([jnp.log(d).ravel() for d in penalties])))
    return preconditioners.kronecker(tuple(factors), mean)


def measure(problem, penalties, rounds) -> list[dict]:
    """Returns a row for each preconditioner, of medians of turns."""
    params, batch = jax.tree.map(jnp.asarray, (problem.params, problem.train))
    b = jax.grad(problems.outer_loss)(params, None, problem.valid)
    calls = {}
    for name in NAMES:
        setup = jax.jit(partial(make, name))

        @jax.jit
        def solve(params, penalties, batch, b, made):
            solver = solvers.conjugate_gradient(MAX_ITERS, tol=TOL, preconditioner=made)
            product = product_of(params, penalties, batch)
            x, info = solver(product, b)
            left = optax.tree.sub(product(x), b)
            return info.num_iters, optax.tree.norm(left) / optax.tree.norm(b)

        made = setup(params, penalties, batch)
        calls[name] = (
            partial(setup, params, penalties, batch),
            partial(solve, params, penalties, batch, b, made),
        )
    seconds: dict = {name: ([], []) for name in NAMES}
    results = {name: jax.device_get(solve()) for name, (_, solve) in calls.items()}
    for _ in range(rounds):
        for name, both in calls.items():
            for call, times in zip(both, seconds[name], strict=True):
                start = time.perf_counter()
                jax.block_until_ready(call())
                times.append(time.perf_counter() - start)
    return [
        {
            "preconditioner": name,
            "iterations": int(results[name][0]),
            "residual": float(results[name][1]),
            "setup_seconds": statistics.median(seconds[name][0]),
            "solve_seconds": statistics.median(seconds[name][1]),
        }
        for name in NAMES
    ]


def table(rows: list[dict]) -> str:
    """Returns the rows of one case."""
    head = f"\n{rows[0]['case']}, to a residual of {TOL:.0e}\n"
    lines = [
        f"{row['preconditioner']:<26}{row['iterations']:>6} iterations"
        f"{1e3 * row['setup_seconds']:>9.1f} ms setup"
        f"{1e3 * row['solve_seconds']:>9.1f} ms solve"
        for row in rows
    ]
    return head + "\n".join(lines)


if __name__ == "__main__":
    main()
