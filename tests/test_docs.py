"""Every Python block of the documentation runs and prints what its comments say.

The blocks of one file share a namespace and run in order. Where a top-level `print`
call has a comment on its last line, the output must be that comment; numbers to 2 %,
since their last digits depend on the machine.
"""

import ast
import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

from tests.workdir.test_dataset_report import report
from tests.workdir.test_dataset_report import write as write_report

ROOT = Path(__file__).parents[1]
FILES = [
    p for p in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if p.exists()
]
BLOCK = re.compile(r"^```(?:python|py)\b[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
MIN_BLOCKS = {
    "hypergrad/tutorial.md": 12,
    "hypergrad/solvers.md": 5,
    "hypergrad/decorators.md": 4,
    "hypergrad/sharding.md": 3,
    "hypergrad/peers.md": 1,
}
SLOW = {"python.md", *(name.split("/")[1] for name in MIN_BLOCKS)}


def params():
    marks = {name: [pytest.mark.slow] for name in SLOW}
    return [pytest.param(p, marks=marks.get(p.name, []), id=p.name) for p in FILES]


def blocks(text):
    """The Python blocks as `(code, line of its start)`."""
    return [(m.group(1), text[: m.start(1)].count("\n")) for m in BLOCK.finditer(text)]


def same_output(printed, comment):
    """Equal up to numbers, which may differ by 2 %, or both be rounding errors."""
    if NUMBER.sub("#", printed) != NUMBER.sub("#", comment):
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(comment), strict=True)
    return all(
        abs(a - b) <= 0.02 * abs(b) or max(abs(a), abs(b)) < 1e-5
        for a, b in ((float(a), float(b)) for a, b in pairs)
    )


def expected_output(statement, code):
    """The comment after a top-level `print(...)`, None where there is none."""
    is_print = (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == "print"
    )
    if not is_print:
        return None
    rest = code.splitlines()[statement.end_lineno - 1][statement.end_col_offset :]
    comment = re.match(r"\s*#\s*(.*)", rest)
    return comment.group(1).strip() if comment else None


def run_document(text, name):
    """Runs all blocks; raises what they raise, or AssertionError for another output."""
    namespace = {"__name__": "__main__"}
    for code, line in blocks(text):
        code = "\n" * line + code  # Tracebacks show the line in the document.
        for statement in ast.parse(code, name).body:
            program = compile(ast.Module([statement], []), name, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(program, namespace)
            printed = " ".join(output.getvalue().split())
            expected = expected_output(statement, code)
            if expected is not None:
                assert same_output(printed, " ".join(expected.split())), (
                    f"{name}:{statement.lineno} says {expected!r}, prints {printed!r}"
                )


@pytest.mark.parametrize("path", params())
def test_the_blocks_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # What a block writes stays out of the repository.
    # The workdir that a block may read.
    (tmp_path / "runs/digits/autodo_s-seed0").mkdir(parents=True)
    write_report(tmp_path / "runs/digits/autodo_s-seed0", report())
    with jax.numpy_rank_promotion("allow"):
        run_document(path.read_text(), path.name)


def test_the_guide_is_there_and_has_blocks():
    for name, least in MIN_BLOCKS.items():
        assert len(blocks((ROOT / "docs" / name).read_text())) >= least


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```", AssertionError),
        ("```python\nprint(0.5)  # 0.6\n```", AssertionError),
        ("```python\nprint('a', 1)  # b 1\n```", AssertionError),
        ("```python\nundefined\n```", NameError),
        ("```python\nx = (\n```", SyntaxError),
    ],
)
def test_a_wrong_document_fails(text, error):
    with pytest.raises(error):
        run_document(text, "wrong.md")


def test_a_right_document_passes():
    text = "```python\nx = 1\n```\ntext\n```python\nprint(x / 3)  # 0.333\n```\n"
    run_document(text, "right.md")
    assert [line for _, line in blocks(text)] == [1, 5]


def promises():
    """(promise, what holds it) of each row of the tables of docs/reliability.md."""
    is_row = False
    for line in (ROOT / "docs/reliability.md").read_text().splitlines():
        is_row = line.startswith("| promise |") or (is_row and line.startswith("|"))
        if is_row and not line.startswith(("| promise |", "|---")):
            promise, tests = line.strip("| ").split(" | ")
            yield pytest.param(tests, id=promise[:40])


@pytest.mark.parametrize("tests", [*promises()])
def test_each_promise_is_held_by_tests_that_exist(tests):
    paths = re.findall(r"`(tests/[^`]*)`", tests)
    assert paths
    for path in map(ROOT.joinpath, paths):
        files = [*path.glob("**/test_*.py")] if path.is_dir() else [path]
        assert files
        for file in files:
            assert re.search(r"^def test_", file.read_text(), re.MULTILINE), file


def test_there_are_promises():
    assert len([*promises()]) > 35
