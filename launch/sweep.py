"""Runs a grid of methods and seeds, one after the other, skipping finished runs.

Needs: the package installed; run from the root of the checkout.
Example: python launch/sweep.py --config=configs/digits.py --seeds=0,1,2,3,4
Leaves behind: a workdir for each run in runs/<config>/, which
`python -m autodo_jax.report runs/<config>` turns into a table. Each method that learns
also runs frozen, as its control, unless --nofrozen. Further flags of the form
--config.field=value go to every run. Exit status: that of the first run that fails.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from autodo_jax.config import METHODS

FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string(
    "config", None, "Experiment file.", flag_values=FLAGS, required=True
)
_METHODS = flags.DEFINE_list(
    "methods", list(METHODS), "Methods to run.", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds to run.", flag_values=FLAGS)
_FROZEN = flags.DEFINE_bool(
    "frozen", True, "Run the frozen controls too.", flag_values=FLAGS
)


def commands(
    config: str,
    methods: Sequence[str],
    seeds: Sequence[str],
    overrides: Sequence[str],
    *,
    frozen: bool,
) -> Iterator[list[str]]:
    """Yields the command of each run of the grid, seed by seed."""
    for seed in seeds:
        for method in methods:
            learns = METHODS.get(method) != METHODS["baseline"]
            for control in (False, True) if frozen and learns else (False,):
                yield [
                    sys.executable,
                    "-m",
                    "autodo_jax.main",
                    f"--config={config}:{method}",
                    f"--config.seed={seed}",
                    f"--config.hyper.frozen={control}",
                    *overrides,
                ]


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit status."""
    overrides = [arg for arg in argv[1:] if arg.startswith("--config.")]
    try:
        FLAGS([arg for arg in argv if arg not in overrides])
    except flags.Error as error:
        print(f"sweep: {error}\n\n{__doc__}", file=sys.stderr)
        return 2
    grid = list(
        commands(
            _CONFIG.value, _METHODS.value, _SEEDS.value, overrides, frozen=_FROZEN.value
        )
    )
    for number, command in enumerate(grid, start=1):
        print(f"run {number} of {len(grid)}: {' '.join(command[3:])}", flush=True)
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
