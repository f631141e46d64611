"""Types that several packages share."""

from collections.abc import Callable
from typing import Any, TypeVar

import chex

# A nest of dicts, lists and tuples with arrays as leaves.
PyTree = Any

State = TypeVar("State")
Points = TypeVar("Points")

# Scalars of one step, or arrays [K] of K steps, by name.
Metrics = dict[str, chex.Array]
# (state, points, key) -> (state, metrics)
TaskStep = Callable[[State, Points, chex.PRNGKey], tuple[State, Metrics]]
# (state, train points, validation points, key) -> (state, metrics)
HyperStep = Callable[[State, Points, Points, chex.PRNGKey], tuple[State, Metrics]]
# (params, batch_stats, points) -> (losses [B], predictions [B], confidences [B])
EvaluationStep = Callable[[PyTree, PyTree, Points], tuple[chex.Array, ...]]
# (params, batch_stats, points) -> inputs of the head [B, D]
FeaturesStep = Callable[[PyTree, PyTree, Points], chex.Array]
