"""Types that several packages share; arrays and keys have those of chex."""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias, TypeVar

import chex

PyTree: TypeAlias = Any
"""An array, or a tuple, list, dict or other container of such trees known to JAX.

It is `Any` because no Python type says which containers are registered with JAX.
"""

AxisName: TypeAlias = Hashable
"""Name of an axis mapped by pmap, shard_map or vmap, or a tuple of such names."""

Metrics: TypeAlias = dict[str, chex.Array]
"""Scalars of one step, or arrays [K] of K steps, by name."""

State = TypeVar("State")
Points = TypeVar("Points")

TaskStep: TypeAlias = Callable[[State, Points, chex.PRNGKey], tuple[State, Metrics]]
"""(state, points, key) -> (state, metrics)"""

HyperStep: TypeAlias = Callable[
    [State, Points, Points, chex.PRNGKey], tuple[State, Metrics]
]
"""(state, train points, validation points, key) -> (state, metrics)"""

EvaluationStep: TypeAlias = Callable[[PyTree, PyTree, Points], tuple[chex.Array, ...]]
"""(params, batch_stats, points) -> (losses, predictions, confidences), each [B]"""

FeaturesStep: TypeAlias = Callable[[PyTree, PyTree, Points], chex.Array]
"""(params, batch_stats, points) -> inputs of the head [B, D]"""
