"""Tests of `autodo_jax.predict`."""
