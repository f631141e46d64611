"""Eight fake CPU devices, strict JAX flags, and programs compiled once a session."""

import atexit
import os
import shutil
import signal
import tempfile

# Before the first import of jax, which reads it once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Most of the time is spent on compiling: what one test has compiled serves the other
# workers and the programs that tests start. Workers inherit the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _folder = tempfile.mkdtemp(prefix="autodo_jax-compiled-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

# A shell lets what it starts in the background ignore it; tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_runtest_setup(item):
    """Most tests compile for longer than they run: they do with few compiler passes."""
    is_quick = item.get_closest_marker("full_compile") is None
    jax.config.update("jax_disable_most_optimizations", is_quick)
    # Of the programs that a test starts.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(is_quick))


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
