"""Tests of `autodo_jax.data.images`."""
