"""Eight fake CPU devices, and strict JAX flags, for every test."""

import os

# Before the first import of jax, which reads it once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["float64", "float32"])
def precision(request):
    """Runs a test in double and in single precision; the tolerance to assert."""
    with jax.enable_x64(request.param == "float64"):
        yield {"float64": 1e-10, "float32": 1e-5}[request.param]


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield
