"""Tests of `autodo_jax.disk`."""
