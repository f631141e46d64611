"""autodo: learn how to augment, weigh and relabel each training image.

    autodo COMMAND [ARGUMENT ...]

{commands}

`autodo COMMAND --help` lists the arguments of a command. First steps:

    autodo train --config=digits
    autodo train --config=folder --config.data.data_dir=PATH --check

{experiments}
"""

import runpy
import sys
import textwrap
from collections.abc import Sequence

from autodo_jax.errors import ArgumentParser
from autodo_jax.programs import experiments
from autodo_jax.version import __version__

# Each is also `python -m MODULE`.
PROGRAMS = {
    "train": ("autodo_jax.main", "learn from a data set; writes a workdir"),
    "predict": ("autodo_jax.predict", "classify images by the network of a run"),
    "review": ("autodo_jax.review", "decide on the suspects of a run in a browser"),
    "export": ("autodo_jax.export", "write an image folder without its suspects"),
    "report": ("autodo_jax.report", "tables over runs, and a page for each run"),
    "prepare": ("autodo_jax.data.prepare", "convert archives of the paper's data sets"),
    "embed": ("autodo_jax.embed", "compute features of images, pretrained"),
    "export-model": ("autodo_jax.export_model", "write a network for other programs"),
}
_USAGE = 2  # exit status


def help_text() -> str:
    """Returns the commands and what they do, on one screen."""
    commands = "\n".join(
        f"    {name:<13} {text}" for name, (_, text) in PROGRAMS.items()
    )
    names = ", ".join(experiments.names())
    listed = textwrap.fill(f"Experiments: {names}; or a file of yours.", 80)
    return (__doc__ or "").format(commands=commands, experiments=listed).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, as `python -m` of its module does; returns its exit status.

    Args:
      argv: the name of the command, then its arguments; None for those of the process.
    """
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"autodo_jax {__version__}")
        return 0
    if name not in PROGRAMS:
        print(
            f"autodo: no command {name!r}; there are {', '.join(PROGRAMS)}",
            file=sys.stderr,
        )
        return _USAGE
    module, _ = PROGRAMS[name]
    sys.argv = [f"autodo {name}", *arguments]
    ArgumentParser.called = sys.argv[0]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        ArgumentParser.called = ""
    return 0
