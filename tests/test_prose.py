"""README, documentation, docstrings, comments and messages are plain English."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SUFFIXES = {".cff", ".cfg", ".html", ".ipynb", ".js", ".md", ".py", ".sbatch", ".sh"}
SUFFIXES |= {".toml", ".yaml", ".yml"}
FOLDERS = ("autodo_jax", "benchmarks", "configs", "docs", "examples", "launch", "tests")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and path != pathlib.Path(__file__)
) + sorted(path for path in ROOT.glob("*.*") if path.suffix in SUFFIXES)
# What is written so, and what to write.
AVOIDED = {
    r"\b(goes|go|going|went|gone) on\b": "continues, is resumed",
    r"\banew\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix, correct",
    r"\b(lends?|lent)\b": "gives",
    r"\bdear(er|ly)?\b": "expensive",
    r"\bto be had\b": "available",
    r"\bgiven away\b": "donated",
    r"\b(stands?|stood|standing) (in\b|still\b|there\b)": "is in, means",
    r"\bbehind\b": "after, below",
    r"\b(that|which) (are|is) no (?!better)\w+": "are not",
    r"\bin silence\b": "silently",
    r"\bwhat is raised\b": "errors",
}


def texts():
    for path in FILES:
        yield path, path.read_text()


@pytest.mark.parametrize("pattern", AVOIDED)
def test_phrases_are_idiomatic(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}: "
        f"{match.group()!r}, rather {AVOIDED[pattern]!r}"
        for path, text in texts()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_words_are_spelled_as_usual():
    codespell = pytest.importorskip("codespell_lib")
    del codespell
    names = [str(path) for path in FILES if path.suffix != ".ipynb"]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stdout and not done.stderr, done.stdout + done.stderr


def test_the_files_are_found():
    """The list of files is not empty by a mistake in a path."""
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"README.md", "docs/results.md", "autodo_jax/main.py"} <= names
    assert len(names) > 250
