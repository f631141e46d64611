"""CPU seconds to trace and compile a hypergradient, by the number of parameter leaves.

    python benchmarks/hypergrad_compile.py [--json=PATH] [--leaves 60 200]

The network is a chain of 16 x 16 kernels, each with a penalty of its own, so that the
program grows with the leaves and runs in no time. jaxopt's `custom_root` with conjugate
gradients takes turns with ours. Needs the extra `bench`.
"""

import argparse
import functools
import importlib
import json
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax.implicit import hypergrad, solvers

WIDTH, BATCH = 16, 8
SOLVERS: dict[str, solvers.Solver] = {
    "conjugate_gradient(20)": solvers.conjugate_gradient(20),
    "minres(20)": solvers.minres(20),
    "neumann(20), the default": solvers.neumann(20),
}
PEER = "jaxopt solve_cg(20)"


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write all samples to")
    parser.add_argument("--leaves", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system")
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    rows: list[dict] = []
    for num_leaves in options.leaves:
        rows += measure(num_leaves, options.rounds)
        if options.json:
            lines = ",\n ".join(map(json.dumps, rows))
            options.json.write_text(f"[\n {lines}\n]\n")
    print(table(rows))


def measure(num_leaves: int, rounds: int) -> list[dict]:
    """Returns the samples of each system, taken in turns."""
    operands = problem(num_leaves)
    rows: list[dict] = [
        {"leaves": num_leaves, "system": name, "trace": [], "compile": []}
        for name in (PEER, *SOLVERS)
    ]
    for _ in range(rounds):
        for row in rows:
            jax.clear_caches()
            start = time.process_time()
            lowered = jax.jit(program(row["system"])).lower(*operands)
            traced = time.process_time()
            lowered.compile()
            row["trace"].append(round(traced - start, 3))
            row["compile"].append(round(time.process_time() - traced, 3))
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| leaves | system | trace, CPU s | compile, CPU s |", "|---|---|---|---|"]
    for row in rows:
        both = (f"{statistics.median(row[key]):.1f}" for key in ("trace", "compile"))
        lines.append(f"| {row['leaves']} | {row['system']} | {' | '.join(both)} |")
    return "\n".join(lines)


def program(name: str):
    if name in SOLVERS:
        return functools.partial(ours, SOLVERS[name])
    peer = importlib.import_module("jaxopt")
    solve = functools.partial(peer.linear_solve.solve_cg, maxiter=20, tol=0.0)
    root = peer.implicit_diff.custom_root(jax.grad(inner_loss), solve=solve)
    return functools.partial(theirs, root(lambda init, h, x: init))


def ours(solver, params, hparams, x):
    args = (x,)
    return hypergrad(
        inner_loss,
        outer_loss,
        params,
        hparams,
        inner_args=args,
        outer_args=args,
        solver=solver,
    )


def theirs(finished, params, hparams, x):
    return jax.grad(lambda h: outer_loss(finished(params, h, x), h, x))(hparams)


def problem(num_leaves: int):
    rng = np.random.default_rng(0)
    shape = (num_leaves, WIDTH, WIDTH)
    params = [jnp.float32(kernel / 4) for kernel in rng.standard_normal(shape)]
    x = jnp.float32(rng.standard_normal((BATCH, WIDTH)))
    return params, [jnp.float32(0)] * num_leaves, x


def outer_loss(params, hparams, x):
    del hparams
    for kernel in params:
        x = jnp.tanh(x @ kernel)
    return jnp.mean(x**2)


def inner_loss(params, hparams, x):
    pairs = zip(params, hparams, strict=True)
    return outer_loss(params, None, x) + sum(
        jnp.exp(h) * jnp.sum(k**2) for k, h in pairs
    )


if __name__ == "__main__":
    main()
