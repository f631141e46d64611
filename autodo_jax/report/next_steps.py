"""Section on what can be done with a finished run."""

from autodo_jax.report.section import UNFINISHED, Section
from autodo_jax.workdir.run import Run

_FOLDER = (
    ("decide on each suspect in a browser", "autodo review WORKDIR"),
    ("write the images without the suspects", "autodo export WORKDIR --to=DIR"),
    ("write them as decided", "autodo export WORKDIR --to=DIR --review=FILE"),
    ("classify other images", "autodo predict WORKDIR PATH..."),
)
_ANY = (
    ("use the network without this package", "autodo export-model WORKDIR --to=FILE"),
)


def next_steps(run: Run) -> Section:
    """Returns what its reader can do with a run, and how."""
    section = ("next", "What to do next")
    if run.result is None:
        return Section(*section, UNFINISHED)
    steps = [*(_FOLDER if run.config["data.source"] == "folder" else ()), *_ANY]
    if run.learns and not run.rivals():
        what = "see whether training on the clean set does as well"
        steps.append((what, "the same run with the method clean_only or joined"))
    text = "WORKDIR is the folder of this page."
    return Section(*section, text, ["to", "how"], [list(step) for step in steps])
