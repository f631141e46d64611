"""Tests of `autodo_jax.data.batches`."""
