"""Tests here compile more than they run: without the compiler's costly passes."""

import jax


def pytest_runtest_setup(item):
    fast = item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", fast)


def pytest_runtest_teardown():
    jax.config.update("jax_disable_most_optimizations", False)
