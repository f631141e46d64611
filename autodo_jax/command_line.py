"""The flags of `python -m autodo_jax.main`, and what they ask for."""

import pathlib
import runpy
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from autodo_jax import config as config_lib
from autodo_jax import processes
from autodo_jax.config import help
from autodo_jax.errors import ConfigError, UsageError
from autodo_jax.programs import experiments

_FIELDS = "fields, as --config.FIELD=VALUE; experiment files have other defaults:"
_EXAMPLE = "pass --config=digits, or --config=FILE"


class Options(NamedTuple):
    """The flags of a run, but for those that set fields of its configuration."""

    config: str | None  # NAME or FILE, or one of them with :METHOD
    method: str | None  # in place of METHOD
    workdir: pathlib.Path | None
    check: bool  # reads the data, says what they are, and stops
    overwrite: bool
    compilation_cache: bool
    with_traceback: bool
    show_help: bool
    cluster: processes.Cluster
    fields: tuple[str, ...]  # --config.field=value, as given


def parse(argv: Sequence[str]) -> Options:
    """Returns the options of a command line.

    Args:
      argv: the name of the program, then its arguments.

    Raises:
      UsageError: a flag with a value of another type.
    """
    values = _define_flags()
    try:
        _, *rest = values(list(argv), known_only=True)
    except flags.Error as error:
        raise _usage_error(error) from error
    return Options(
        config=values.config,
        method=values["config.method"].value,
        workdir=None if values.workdir is None else pathlib.Path(values.workdir),
        check=values.check,
        overwrite=values.overwrite,
        compilation_cache=values.compilation_cache,
        with_traceback=values.verbosity > 0,
        show_help=values.help,
        cluster=processes.Cluster(
            values.distributed,
            values.coordinator,
            values.num_processes,
            values.process_id,
        ),
        fields=tuple(rest),
    )


def load_config(options: Options) -> ml_collections.ConfigDict:
    """Returns the validated configuration that the options ask for.

    Raises:
      UsageError: flags that do not parse, an experiment that cannot be loaded, or a
        field that is unknown or of another type.
      ConfigError: an unknown method; a field out of its range.
    """
    return with_fields(_load_experiment(options), options.fields)


def with_fields(
    config: ml_collections.ConfigDict, fields: Sequence[str]
) -> ml_collections.ConfigDict:
    """Returns a validated configuration with other values of fields.

    Args:
      config: with all fields.
      fields: arguments like "--config.data.data_dir=PATH".

    Raises:
      UsageError, ConfigError: as `load_config`.
    """
    _check_names(fields, config)
    arguments = ["", *fields]
    values = flags.FlagValues()
    values.set_gnu_getopt()
    try:
        config_flags.DEFINE_config_dict(
            "config",
            config,
            lock_config=True,
            flag_values=values,
            sys_argv=arguments,
        )
        _, *rest = values(arguments)
    except Exception as error:  # Parsers of types raise many kinds.
        raise _usage_error(error) from error
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}", "flags start with --")
    changed = ml_collections.ConfigDict(values.config)
    config_lib.validate(changed)
    _make_absolute(changed)
    return changed


def _make_absolute(config: ml_collections.ConfigDict) -> None:
    """Makes paths those of any working directory, for the programs that read a run."""
    for section, name in (
        *((config.data, name) for name in ("data_dir", "labels", "corrections")),
        (config.model, "weights"),
    ):
        path = pathlib.Path(section[name]).expanduser()
        # A table of labels may also be named by its place below data_dir, and weights
        # by what they were trained on.
        may_be_a_name = name in ("labels", "weights")
        if section[name] and (path.is_file() or not may_be_a_name):
            section[name] = str(path.absolute())


def help_text() -> str:
    """Returns the flags and the fields of a configuration, with their meaning."""
    lines = [_define_flags().get_help(), "", _FIELDS, ""]
    for field in help.described():
        lines.append(f"  {field.name} = {field.default}")
        lines += textwrap.wrap(
            field.comment, 80, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _define_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    values.set_gnu_getopt()  # Flags may come in any order.
    strings = {
        "config": "Experiment and method: digits:autodo, or configs/digits.py:autodo.",
        "config.method": "Method, in place of the one after the colon.",
        "workdir": "Default: runs/CONFIG/METHOD-seedK.",
        "coordinator": "HOST:PORT of process 0.",
    }
    switches = {
        "check": "Read the data, say what they are and what will not work, and stop.",
        "overwrite": "Replace a finished run.",
        "distributed": "Join the processes that SLURM, Open MPI, Kubernetes or a TPU "
        "pod started.",
    }
    integers = {
        "num_processes": "Processes of the run.",
        "process_id": "Number of this process, from 0.",
    }
    for name, text in strings.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in switches.items():
        flags.DEFINE_bool(name, False, text, flag_values=values)
    for name, text in integers.items():
        flags.DEFINE_integer(name, None, text, flag_values=values)
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
        "help", False, "Show this help.", short_name="h", flag_values=values
    )
    return values


def _load_experiment(options: Options) -> ml_collections.ConfigDict:
    if not options.config:
        raise UsageError("no experiment", _EXAMPLE)
    path, _, method = options.config.partition(":")
    file = experiments.find(path)
    try:
        config = runpy.run_path(str(file))["get_config"](options.method or method)
        config_lib.check_fields(config)
    except ConfigError:
        raise
    except Exception as error:  # Whatever the code in the file raises.
        raise UsageError(
            f"{path} is not an experiment file: {type(error).__name__}: {error}",
            "it must define get_config(method)",
        ) from error
    return config


def _check_names(fields: Sequence[str], config: ml_collections.ConfigDict) -> None:
    """Refuses a field that does not exist, and names those that do."""
    for argument in fields:
        flag = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-") or not flag.startswith("config."):
            continue
        section, *names = (config, *flag.split(".")[1:])
        for name in names:
            if not isinstance(section, ml_collections.ConfigDict):
                raise UsageError(f"unknown field --{flag}")
            if name not in section:
                raise UsageError(
                    f"unknown field --{flag}", f"there are {', '.join(section)}"
                )
            section = section[name]


def _usage_error(error: Exception) -> UsageError:
    reason = " ".join(str(error).split())
    return UsageError(reason, "--help lists the flags")
