"""python -m autodo_jax.report DIR [DIR ...] [--format=text|markdown|csv|latex]

Prints a table over the finished runs below the folders: mean +- standard deviation over
seeds, each learned row beside its frozen control.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from autodo_jax.report import table

_FORMATS = {
    "text": table.to_text,
    "markdown": table.to_markdown,
    "csv": table.to_csv,
    "latex": table.to_latex,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m autodo_jax.report",
        description="Table over finished runs, mean and spread over seeds.",
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--format", choices=_FORMATS, default="text")
    arguments = parser.parse_args(argv)
    try:
        rows = table.rows(table.find_runs(arguments.folders))
    except ValueError as error:
        print(f"autodo_jax.report: {error}", file=sys.stderr)
        return 2
    print(_FORMATS[arguments.format](rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
