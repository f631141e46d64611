"""Tests of `autodo_jax.export_model`."""
