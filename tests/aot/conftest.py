"""Chips that are not there; without libtpu all of these tests are skipped."""

import importlib.util

import jax
import pytest

from benchmarks import compiled


def pytest_collection_modifyitems(items):
    missing = importlib.util.find_spec("libtpu") is None
    reason = "libtpu is not installed: pip install -e '.[aot]'"
    for item in items:
        if "tests/aot/" in item.path.as_posix():
            # All passes of XLA: they place the copies that these tests look for.
            item.add_marker(pytest.mark.full_compile)
            item.add_marker(pytest.mark.aot)
            if missing:
                item.add_marker(pytest.mark.skip(reason))


@pytest.fixture(autouse=True, scope="module")
def leave_the_cache_alone():
    """Programs for chips that are not there cannot be loaded from it."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="session")
def chip():
    return compiled.mesh("v5e:1x1")


@pytest.fixture(scope="session")
def eight_chips():
    return compiled.mesh("v5e:2x4")
