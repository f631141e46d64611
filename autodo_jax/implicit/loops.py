"""Loops of solvers: compiled under a transformation, plain Python outside of one.

`jax.lax` compiles a loop again for each new body, and keeps what it has compiled. A
solver's body is new at each call because it closes over a matrix, so eager calls run
step by step instead.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from autodo_jax._typing import PyTree

# XLA runs these many times slower inside loops on CPU than outside.
_SLOW_IN_LOOPS = ("conv_general_dilated", "reduce_window", "select_and_scatter")
# Longer loops are never unrolled: each step would be compiled.
_MAX_UNROLLED = 8


def while_loop(condition: Callable, body: Callable, state: PyTree) -> PyTree:
    """Runs `body` while `condition` holds, as `jax.lax.while_loop`."""
    while True:
        unfinished = condition(state)
        if isinstance(unfinished, jax.core.Tracer):
            return jax.lax.while_loop(condition, body, state)
        if not unfinished:
            return state
        state = body(state)


def repeat(num_times: int, body: Callable, state: PyTree) -> PyTree:
    """Runs `body(i, state)` for i = 0..num_times-1, as `jax.lax.fori_loop`.

    Short loops over convolutions and pooling are unrolled on CPU.
    """
    is_traced = num_times > 1 and _is_traced(state)
    if is_traced and (num_times > _MAX_UNROLLED or not _needs_unrolling(body, state)):
        return jax.lax.fori_loop(0, num_times, body, state)
    for i in range(num_times):
        following = body(i, state)
        if i == 0 and num_times > _MAX_UNROLLED and _is_traced(following):
            # Only the matrix is traced. From the start, so that its product is compiled
            # once: the one above is not used then.
            return jax.lax.fori_loop(0, num_times, body, state)
        state = following
    return state


def _is_traced(state: PyTree) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state))


def _needs_unrolling(body: Callable, state: PyTree) -> bool:
    if jax.default_backend() != "cpu":
        return False
    jaxpr = jax.make_jaxpr(body)(0, state).jaxpr
    return any(name.startswith(_SLOW_IN_LOOPS) for name in _primitives(jaxpr))


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Yields the names of the primitives of a program and of its parts."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from _primitives(inner)
