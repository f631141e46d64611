"""Tests of `autodo_jax.augment`."""
