"""Command line: one configuration, one run, one workdir.

python -m autodo_jax.main --config=configs/digits.py[:METHOD] [--workdir=DIR]
    [--config.field=value ...] [--check] [--overwrite] [--nocompilation_cache]
    [--verbosity=1]
    [--distributed | --coordinator=HOST:PORT --num_processes=P --process_id=I]

An experiment of the package is also known by its name: --config=digits. A run that was
interrupted continues when the same command is given again.
"""

import contextlib
import os
import pathlib
import platform
import sys
from collections.abc import Sequence

import jax
import ml_collections
import platformdirs

from autodo_jax import command_line, errors, processes
from autodo_jax import config as config_lib
from autodo_jax.train import loop
from autodo_jax.train.progress import EpochProgress
from autodo_jax.train.setup import Summary, check, prepare
from autodo_jax.version import __version__
from autodo_jax.workdir import files, folder
from autodo_jax.workdir.run import read

_USAGE = 2  # exit status: the command cannot be run as it is given
_FAILED = 1  # exit status: the run ended before it was finished
_USAGE_ERRORS = (
    errors.UsageError,
    errors.ConfigError,
    errors.DataError,
    errors.WorkdirError,
    errors.RunFilesError,
)
_RUN_ERRORS = (errors.RunError, errors.LostPeerError, FloatingPointError, OSError)
# Fields that may differ between the processes of a run.
_OF_A_MACHINE = {
    *("data.data_dir", "data.labels", "data.corrections", "data.num_workers"),
    "profile",
}
_CACHE_BYTES = 2**30  # Programs that were not used for longest are removed.


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit status."""
    try:
        options = command_line.parse(argv)
    except errors.UsageError as error:
        return _fail(error, _USAGE, with_traceback=False)
    if options.show_help:
        program = "python -m autodo_jax.main"
        usage = (__doc__ or "").replace(
            program, errors.ArgumentParser.called or program
        )
        print(f"{usage}\n{command_line.help_text()}")
        return 0
    try:
        return _run(options)
    except errors.Interrupted as error:
        if processes.is_first():
            print(f"autodo_jax: {errors.for_command_line(error)}", file=sys.stderr)
        return 128 + error.signum
    except _USAGE_ERRORS as error:
        status = _fail(error, _USAGE, with_traceback=options.with_traceback)
    except _RUN_ERRORS as error:
        status = _fail(error, _FAILED, with_traceback=options.with_traceback)
    if processes.are_several():
        processes.exit_without_peers(status)
    return status


def _run(options: command_line.Options) -> int:
    config = command_line.load_config(options)
    workdir = options.workdir or folder.default_path(config)
    if options.check:
        check(config, _show)
        return 0
    if not options.overwrite and folder.is_finished(workdir, config):
        _say(
            f"{workdir} is finished; --overwrite replaces it, another --workdir keeps "
            "it"
        )
        # It may have been stopped when all but the report was written.
        return 0 if read(workdir).has_report() or _report(workdir) else _FAILED
    processes.start(options.cluster)
    _agree(config)
    if options.compilation_cache:
        enable_compilation_cache()
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(
                folder.opened(workdir, config, overwrite=options.overwrite)
            )
        processes.wait_for_all("the workdir is prepared")
        with processes.lost_peer_errors():
            result = _train(config, workdir)
        if processes.is_first():
            _show_result(workdir, result)
    return 0


def _agree(config: ml_collections.ConfigDict) -> None:
    """Raises RunError in all processes of a run where they do not fit together."""
    fields = {
        f"config.{name}": value
        for name, value in config_lib.to_fields(config).items()
        if name not in _OF_A_MACHINE
    }
    versions = {"jax": jax.__version__, "autodo_jax": __version__}
    processes.agree("configuration", versions | fields)
    processes.agree("devices", {"number of devices": jax.local_device_count()})


def _train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
    show = "bar" if sys.stderr.isatty() else "lines"
    if processes.is_first():
        devices = jax.devices()
        _say(
            f"{config.method} on {config.data.source}, {len(devices)} x "
            f"{devices[0].device_kind}, workdir {workdir}"
        )
    else:
        show = "nothing"
    say = print if processes.is_first() else lambda text: None
    setup, state = prepare(config, workdir=workdir, say=say)
    processes.agree("data", {"data": setup.data.fingerprint()})
    progress = EpochProgress(
        config.epochs, show, errors.for_command_line, setup.plan.start_epoch
    )
    if processes.is_first():
        _show(setup.data.summary)
    return loop.run(setup, state, workdir, progress).result


def _say(text: str) -> None:
    print(errors.printable(text), flush=True)


def _show(summary: Summary) -> None:
    for line in summary.lines():
        _say(line)
    for text in summary.warnings:
        _say(f"warning: {text}")


def _show_result(workdir: pathlib.Path, result: dict) -> None:
    _say(
        f"test error {result['test_error']:.2f} %, validation error "
        f"{result['val_error']:.2f} %, {result['seconds']:.1f} s; results in {workdir}"
    )
    _report(workdir)


def _report(workdir: pathlib.Path) -> bool:
    """Writes the report of a finished run; returns whether that was possible."""
    from autodo_jax.report import page  # Its libraries take a second to import.

    try:
        _say(f"report: {page.write_page(workdir)}")
    except errors.RunFilesError as error:  # All else is written: the run is finished.
        message = errors.for_command_line(error)
        print(f"autodo_jax: no {files.REPORT}: {message}", file=sys.stderr)
        return False
    return True


def enable_compilation_cache() -> None:
    """Enables JAX's persistent compilation cache; JAX's own variables prevail.

    Programs for CPUs are not for those of another machine, which may share the folder.
    """
    if jax.process_count() > 1 or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = platformdirs.user_cache_path("autodo_jax") / platform.node()
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _fail(error: Exception, status: int, *, with_traceback: bool) -> int:
    if with_traceback:
        raise error
    print(f"autodo_jax: {errors.for_command_line(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv))
