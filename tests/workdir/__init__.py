"""Tests of `autodo_jax.workdir`."""
