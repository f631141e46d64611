"""Section on the data as they were found."""

from autodo_jax.report.section import Section
from autodo_jax.workdir.run import Run

_LISTED = 50  # certain label errors that are shown


def found(run: Run) -> Section:
    """Returns what was read, what was left out, and which labels are surely wrong."""
    section = ("data", "The data")
    data = run.data()
    if data is None:
        return Section(*section, "An older version has not kept what it found.")
    errors, warnings = data["certain_errors"], data["warnings"]
    rows = [
        *(["certain label error", text] for text in errors[:_LISTED]),
        *(["warning", text] for text in warnings),
        *([str(subject), str(text)] for subject, text in data["rows"]),
    ]
    text = "What was found before training."
    if errors:
        text += (
            f" {len(errors):,} pairs of train images have the same pixels and "
            "different labels: one of each pair is wrong."
        )
    return Section(*section, text, ["subject", "found"], rows)
