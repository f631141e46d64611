"""Tests of `autodo_jax.data.sources`."""
