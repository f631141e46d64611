"""Command line: one configuration, one run, one workdir.

python -m autodo_jax.main --config=configs/digits.py[:METHOD] [--workdir=DIR]
    [--config.field=value ...] [--overwrite] [--nocompilation_cache] [--verbosity=1]
    [--distributed | --coordinator=HOST:PORT --num_processes=P --process_id=I]

A run that was interrupted goes on where it was when the same command is given again.
"""

import contextlib
import itertools
import os
import pathlib
import platform
import runpy
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import platformdirs
from absl import flags
from ml_collections import config_flags

from autodo_jax import config as config_lib
from autodo_jax import processes
from autodo_jax.errors import DataError
from autodo_jax.train import loop
from autodo_jax.train.setup import RunError
from autodo_jax.workdir import folder as workdir

_USAGE = 2  # exit status: the command cannot be run as it is given
_FAILED = 1  # exit status: the run ended before it was finished
_CACHE_BYTES = 2**30  # what was not used for longest goes
_NOTHING = contextlib.nullcontext()


class Command(NamedTuple):
    """A parsed command line."""

    config: ml_collections.ConfigDict  # validated
    workdir: pathlib.Path
    overwrite: bool
    use_cache: bool  # of compiled programs
    cluster: processes.Cluster


class UsageError(Exception):
    """A command that cannot be run; the message says what to change."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit status."""
    # Read before parsing, which may itself fail.
    with_traceback = "--verbosity=1" in argv
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"{__doc__}\n{define_flags(argv).get_help()}")
        return 0
    try:
        command = parse(argv)
        folder, config, overwrite = command.workdir, command.config, command.overwrite
        if workdir.is_finished(folder, config, overwrite=overwrite):
            print(f"{folder} is finished; pass --overwrite to train anew")
            return 0
        _start_processes(command.cluster)
        if command.use_cache:
            _keep_compiled_programs()
        with workdir.locked(folder) if processes.is_first() else _NOTHING:
            return _run(command)
    except processes.Interrupted as error:
        if processes.is_first():
            print(f"autodo_jax: {error}", file=sys.stderr)
        return 128 + error.signum
    except (UsageError, DataError, workdir.WorkdirError) as error:
        status = _fail(error, _USAGE, with_traceback)
    except (
        RunError,
        processes.LostPeerError,
        FloatingPointError,
        OSError,
    ) as error:
        status = _fail(error, _FAILED, with_traceback)
    if jax.process_count() > 1:
        processes.leave(status)
    return status


def _run(command: Command) -> int:
    config, folder = command.config, command.workdir
    if processes.is_first():
        workdir.prepare(folder, overwrite=command.overwrite)
    processes.wait_for_all("the workdir is prepared")
    devices = jax.devices()
    if processes.is_first():
        print(
            f"{config.method} on {config.data.source}, {len(devices)} x "
            f"{devices[0].device_kind}, workdir {folder}",
            flush=True,
        )
    with processes.told_from_lost_peers():
        show = "bar" if sys.stderr.isatty() else "lines"
        result = loop.run(config, folder, show=show).result
    if processes.is_first():
        print(
            f"test error {result['test_error']:.2f} %, validation error "
            f"{result['val_error']:.2f} %, {result['seconds']:.1f} s; results in "
            f"{folder}",
            flush=True,
        )
        from autodo_jax.report import page  # Its libraries take a second to import.

        try:
            print(f"report: {page.write_page(folder)}")
        except ValueError as error:  # All else is written, and the run is finished.
            print(f"autodo_jax: no {page.NAME}: {error}", file=sys.stderr)
    return 0


def define_flags(argv: Sequence[str]) -> flags.FlagValues:
    """Returns the flags of one command line, unparsed."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment file and method, as in configs/digits.py:autodo.",
        lock_config=True,
        flag_values=values,
        sys_argv=list(argv),
    )
    flags.DEFINE_string(
        "workdir", None, "Default: runs/CONFIG/METHOD-seedK.", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "Replace a finished run.", flag_values=values)
    flags.DEFINE_bool(
        "compilation_cache",
        True,
        "Keep compiled programs in the user's cache folder, for the next run.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "verbosity", 0, "1: errors with their traceback.", flag_values=values
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join the processes that SLURM, Open MPI, Kubernetes or a TPU pod started.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0.", flag_values=values
    )
    flags.DEFINE_integer(
        "num_processes", None, "Processes of the run.", flag_values=values
    )
    flags.DEFINE_integer(
        "process_id", None, "Number of this process, from 0.", flag_values=values
    )
    return values


def parse(argv: Sequence[str]) -> Command:
    """Returns what a command line asks for.

    Raises:
      UsageError: flags that do not parse; a configuration that cannot be loaded, or
        with a field that is unknown, of the wrong type or out of its range.
    """
    _check_experiment(argv)
    values = define_flags(argv)
    try:
        rest = values(list(argv))[1:]
    except Exception as error:  # Whatever a type's parser raises.
        message = " ".join(str(error).split())
        raise UsageError(f"{message} (--help lists the flags)") from error
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; flags start with --")
    config = ml_collections.ConfigDict(values.config)
    try:
        config_lib.validate(config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = pathlib.Path(values.workdir or default_workdir(config))
    cluster = processes.Cluster(
        values.distributed,
        values.coordinator,
        values.num_processes,
        values.process_id,
    )
    return Command(config, folder, values.overwrite, values.compilation_cache, cluster)


def default_workdir(config: ml_collections.ConfigDict) -> str:
    """Returns runs/<config>/<method>[-frozen]-seed<k>."""
    frozen = "-frozen" if config.hyper.frozen else ""
    return f"runs/{config.name}/{config.method}{frozen}-seed{config.seed}"


def _keep_compiled_programs() -> None:
    """Compiles what an earlier run has compiled no more; JAX's own variables prevail.

    Programs for CPUs are not for those of another machine, which may share the folder.
    """
    if jax.process_count() > 1 or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = platformdirs.user_cache_path("autodo_jax") / platform.node()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _start_processes(cluster: processes.Cluster) -> None:
    try:
        processes.start(cluster)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the processes cannot start together: {reason}") from error


def _check_experiment(argv: Sequence[str]) -> None:
    """Loads the experiment once before the flags do, for errors that name the cause."""
    # As absl reads them: --flag=value or --flag value.
    options = [arg.lstrip("-") for arg in argv[1:] if arg.startswith("-")]
    given = [arg.partition("=")[2] for arg in options if arg.startswith("config=")]
    given += [value for flag, value in itertools.pairwise(argv) if flag == "--config"]
    if not given:
        raise UsageError("no experiment; pass --config=configs/digits.py")
    path, _, method = given[-1].partition(":")
    if not pathlib.Path(path).is_file():
        raise UsageError(
            f"no experiment file {path!r}; pass --config=configs/digits.py"
        )
    try:
        config = runpy.run_path(path)["get_config"](method)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except Exception as error:  # Whatever the code in the file raises.
        raise UsageError(
            f"{path} is no experiment file: {type(error).__name__}: {error}; it must "
            "define get_config(method)"
        ) from error
    for option in options:
        field = option.partition("=")[0]
        section: Any = config
        *sections, name = field.split(".")[1:] or [""]
        for part in sections:
            section = section.get(part, {}) if hasattr(section, "get") else {}
        if field.startswith("config.") and name not in section:
            known = f"there are {', '.join(section)}" if section else "no such section"
            raise UsageError(f"unknown field --{field}; {known}")


def _fail(error: Exception, status: int, with_traceback: bool) -> int:
    if with_traceback:
        raise error
    print(f"autodo_jax: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv))
