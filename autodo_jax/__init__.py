"""autodo_jax."""

from autodo_jax.implicit import *  # noqa
