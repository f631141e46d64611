"""Tests of `autodo_jax.review`."""
