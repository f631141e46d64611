"""Tests of `autodo_jax.report`."""
