"""Tests of `autodo_jax.hyperparams`."""
