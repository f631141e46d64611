"""Tests of `autodo_jax.models`."""
