"""Tests of `autodo_jax.train`."""
