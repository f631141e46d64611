"""Runs a grid of distortions, methods and seeds, skipping finished runs.

Needs: the package installed; run from the root of the checkout.
Example: python launch/sweep.py --config=configs/digits.py --seeds=0,1,2,3,4
Leaves: a workdir for each run in runs/<config>/, which
`python -m autodo_jax.report runs/<config>` turns into a table. Each method that learns
also runs frozen, as its control, unless --nofrozen. Further flags of the form
--config.field=value go to every run. Exit status: that of the first run that fails.
On SIGTERM or Ctrl-C the current run saves its state, and the grid ends.

--distortions=10-0.1,1-0   IR-NR pairs instead of the config's own, a folder for each
--ablations                the paper's ablations of `autodo` instead of the methods
--task=0 --num_tasks=4     every fourth run only, from the first: for job arrays
--dry_run                  prints the commands
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import flags

from autodo_jax import config as config_lib
from autodo_jax.workdir import files

# The paper's ablations (Sec. 5.2, Fig. 5 and 7, Tables 5 and 6), and its choices in
# Sec. 3.2, 4.2 and App. A, each compared with `autodo` as configured.
ABLATIONS = {
    "outer-test": ["data.outer_set=test"],
    "outer-train": ["data.outer_set=train"],
    **{
        f"start-{epoch}": ["epochs=200", f"hyper.start_epoch={epoch}"]
        for epoch in (10, 50, 150, 190)
    },
    "no-terms": ["hyper.num_terms=0"],
    "theta-all": ["hyper.theta=all"],
    "one-sided-kl": ["hyper.symmetric_kl=False"],
}

# Of ablations: the paper's protocol, in which theta never learns from clean points.
PROTOCOL = ["task.joined_epochs=0", "task.joined_share=0"]


class Run(NamedTuple):
    """A run of the grid, by its changes to the experiment file."""

    method: str
    seed: str
    frozen: bool = False
    distortion: str = ""  # IR-NR; "": the file's own
    variant: str = ""  # a key of ABLATIONS

    def workdir(self, root: str) -> pathlib.Path:
        """Returns the workdir of the run, below `root`."""
        frozen = "-frozen" if self.frozen else ""
        name = f"{self.method}{frozen}-seed{self.seed}"
        return pathlib.Path(root, self.distortion, self.variant, name)

    def command(self, config: str, root: str, overrides: Sequence[str]) -> list[str]:
        """Returns the arguments that start the run, its workdir below `root`."""
        fields = [f"seed={self.seed}", f"hyper.frozen={self.frozen}"]
        if self.distortion:
            imbalance, noise = self.distortion.split("-")
            fields += [f"data.imbalance_ratio={imbalance}", f"data.noise_ratio={noise}"]
        if self.variant:
            fields += [*PROTOCOL, *ABLATIONS[self.variant]]
        return [
            sys.executable,
            "-m",
            "autodo_jax.main",
            f"--config={config}:{self.method}",
            f"--workdir={self.workdir(root)}",
            *(f"--config.{field}" for field in fields),
            *overrides,
        ]


def table_runs(methods: Sequence[str], *, frozen: bool, **labels) -> Iterator[Run]:
    """Yields each method, after its frozen control, which its report needs."""
    for method in methods:
        known = config_lib.METHODS.get(method)
        if frozen and known and config_lib.has_hyperparams(known):
            yield Run(method, frozen=True, **labels)
        yield Run(method, **labels)


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a command to its end, even when told to stop; returns its exit status."""
    process = subprocess.Popen(command, env=environment)
    handlers = {
        signal.SIGTERM: lambda *_: process.terminate(),
        signal.SIGINT: lambda *_: None,  # A terminal sends it to both.
    }
    former = {
        number: signal.signal(number, handler) for number, handler in handlers.items()
    }
    try:
        status = process.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status  # as in a shell


def define_flags() -> flags.FlagValues:
    """Returns the flags of one command line, unparsed."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "config", None, "Experiment file.", flag_values=values, required=True
    )
    for name, default, text in (
        ("methods", list(config_lib.METHODS), "Methods to run."),
        ("seeds", ["0"], "Seeds to run."),
        ("distortions", [""], "IR-NR pairs, such as 10-0.1."),
    ):
        flags.DEFINE_list(name, default, text, flag_values=values)
    flags.DEFINE_bool("frozen", True, "Run the frozen controls.", flag_values=values)
    flags.DEFINE_bool(
        "ablations", False, "Run the ablations of autodo instead.", flag_values=values
    )
    flags.DEFINE_string(
        "root",
        None,
        "Folder of the workdirs; default runs/<config>.",
        flag_values=values,
    )
    flags.DEFINE_integer("task", 0, "Number of this task.", flag_values=values)
    flags.DEFINE_integer(
        "num_tasks", 1, "Tasks that share the grid.", flag_values=values
    )
    flags.DEFINE_bool(
        "dry_run", False, "Print the commands, run nothing.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit status."""
    overrides = [arg for arg in argv[1:] if arg.startswith("--config.")]
    values = define_flags()
    try:
        values([arg for arg in argv if arg not in overrides])
    except flags.Error as error:
        print(f"sweep: {error}\n\n{__doc__}", file=sys.stderr)
        return 2
    for distortion in values.distortions:
        if distortion and distortion.count("-") != 1:
            print(
                f"sweep: {distortion!r} is not an IR-NR pair such as 10-0.1",
                file=sys.stderr,
            )
            return 2
    root = values.root or f"runs/{pathlib.Path(values.config).stem}"
    # Seeds share their compiled steps.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(root, "compiled").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    runs = list(grid(values))
    numbers = range(values.task, len(runs), values.num_tasks)
    seconds: list[float] = []  # of the runs that were not finished before
    for done, number in enumerate(numbers):
        command = runs[number].command(values.config, root, overrides)
        left = ""
        if seconds:
            minutes = statistics.mean(seconds) * (len(numbers) - done) / 60
            left = f", {minutes:.0f} min left at most"
        text = " ".join(command[1:])
        print(f"run {number + 1} of {len(runs)}{left}: {text}", flush=True)
        if not values.dry_run:
            is_new = not (runs[number].workdir(root) / files.RESULT).exists()
            start = time.monotonic()
            status = run(command, cache | os.environ)
            if status:
                return status
            if is_new:
                seconds.append(time.monotonic() - start)
    return 0


def grid(values: flags.FlagValues) -> Iterator[Run]:
    """Yields the runs that the flags ask for."""
    for distortion in values.distortions:
        for seed in values.seeds:
            if values.ablations:
                yield from (
                    Run("autodo", seed, False, distortion, v) for v in ABLATIONS
                )
            else:
                yield from table_runs(
                    values.methods,
                    frozen=values.frozen,
                    seed=seed,
                    distortion=distortion,
                )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
