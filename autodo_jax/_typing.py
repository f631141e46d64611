"""Types that several packages share; arrays and keys have those of chex."""

from collections.abc import Hashable
from typing import Any, TypeAlias

PyTree: TypeAlias = Any
"""An array, or a tuple, list, dict or other container of such trees known to JAX.

It is `Any` because no Python type says which containers are registered with JAX.
"""

AxisName: TypeAlias = Hashable
"""Name of an axis mapped by pmap, shard_map or vmap, or a tuple of such names."""
