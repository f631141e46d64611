"""Tests of `autodo_jax.data.prepare`."""
