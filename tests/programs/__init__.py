"""Tests of `autodo_jax.programs`."""
