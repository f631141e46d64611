"""Eight fake CPU devices, strict JAX flags, and programs compiled once a session."""

import atexit
import ctypes
import gc
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import tempfile

# Before the first import of jax, which reads it once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Programs compile in half the time without the emitters of fusions and in one piece.
# XLA ends a process that gives it a flag it has not: later versions do without.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
# Most of the time is spent on compiling: what one test has compiled serves the other
# workers, the programs that tests start, and the tests after `forget_programs`. Workers
# inherit the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _folder = tempfile.mkdtemp(prefix="autodo_jax-compiled-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# With libtpu, which tests/aot compile with, JAX would look for a TPU first.
if importlib.util.find_spec("libtpu"):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A shell lets what it starts in the background ignore it; tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import jax.extend
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
MAX_PROGRAMS = 50
# Of the fast tests, the files that take longest.
LONGEST = (
    "test_main.py",
    "train/test_steps.py",
    "test_docs.py",
    "test_api.py",
    "report/test_page.py",
    "train/test_loop.py",
    "train/test_resume.py",
    "test_examples.py",
    "train/test_cost.py",
    "train/test_devices.py",
    "workdir/test_checkpoint.py",
    "test_objective.py",
)


def pytest_configure(config):
    # Else pytest-xdist begins with the files of most tests, which are short ones.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files first, so that workers end together."""
    items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(LONGEST))


def pytest_collection_finish():
    """What has been imported is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_runtest_setup(item):
    """Most tests compile for longer than they run: they do with few compiler passes."""
    is_quick = item.get_closest_marker("full_compile") is None
    jax.config.update("jax_disable_most_optimizations", is_quick)
    # Of the programs that a test starts.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(is_quick))


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Gives back the memory of compiled programs, more than a megabyte each."""
    yield
    if len(jax.extend.backend.get_backend().live_executables()) > MAX_PROGRAMS:
        jax.clear_caches()
        gc.collect()
        # The system gets back what is free between what is not, where glibc can.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


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
