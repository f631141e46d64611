"""Each front end words the same error for its own users."""

import ast
import pathlib
import pickle

import pytest

from autodo_jax import errors

PACKAGE = pathlib.Path(errors.__file__).parent
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.AutodoError)
]


@pytest.mark.parametrize(
    ("advice", "for_python", "for_command_line"),
    [
        ((), "it fails", "it fails"),
        (("pass it",), "it fails; pass it", "it fails; pass it"),
        (
            ("pass another <workdir>", "<overwrite> to replace it"),
            "it fails; pass another `workdir`",
            "it fails; pass another --workdir, or --overwrite to replace it",
        ),
        (("use <overwrite>",), "it fails", "it fails; use --overwrite"),
        (
            ("lower <config.task.learning_rate>", "pass <config.epochs=20>"),
            "it fails; lower config.task.learning_rate, or pass config.epochs = 20",
            "it fails; lower --config.task.learning_rate, or pass --config.epochs=20",
        ),
        (
            ("pass <config.data.image_size=(HEIGHT, WIDTH)>",),
            "it fails; pass config.data.image_size = (HEIGHT, WIDTH)",
            "it fails; pass --config.data.image_size='(HEIGHT, WIDTH)'",
        ),
        (
            ("repeat <again>",),
            "it fails; repeat the same call",
            "it fails; repeat the same command",
        ),
        (
            ("<method=dada>",),
            "it fails; autodo_jax.config.apply_method(config, 'dada')",
            "it fails; --config=FILE:dada",
        ),
        # What is not an option stays as it is.
        (
            ("put it into train/<class>/", "open <workdirs>"),
            "it fails; put it into train/<class>/, or open <workdirs>",
            "it fails; put it into train/<class>/, or open <workdirs>",
        ),
    ],
)
@pytest.mark.parametrize("kind", [errors.DataError, errors.WriteError])
def test_advice_is_worded_for_the_front_end(kind, advice, for_python, for_command_line):
    error = kind("it fails", *advice)
    assert str(error) == for_python
    assert errors.for_command_line(error) == for_command_line


def test_the_reason_is_not_worded():
    error = errors.DataError("the file <workdir> is <config.epochs=3>", "see <workdir>")
    assert str(error) == "the file <workdir> is <config.epochs=3>; see `workdir`"


def test_other_errors_speak_for_themselves():
    assert errors.for_command_line(ValueError("text <workdir>")) == "text <workdir>"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_reach_other_processes_whole(kind):
    more = {"signum": 15} if kind is errors.Interrupted else {}
    error = kind("it fails", "pass <config.epochs=1>", "wait", **more)
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is kind and vars(found) == vars(error)
    assert str(found) == str(error)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.DataError, ValueError),
        (errors.ModelError, ValueError),
        (errors.RunFilesError, ValueError),
        (errors.WorkdirError, ValueError),
        (errors.CheckpointError, OSError),
        (errors.WriteError, OSError),
    ],
)
def test_errors_are_of_the_kinds_that_python_has(kind, builtin):
    assert issubclass(kind, builtin)
    assert type(kind("it fails")) is kind  # OSError would choose a kind by its number.


def raised(path):
    """Yields the kind and the literal text of each of our errors in a module."""
    names = {kind.__name__ for kind in KINDS}
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in names:
            text = "".join(
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
            yield node.func.id, text, node.lineno


def test_only_the_command_line_speaks_of_flags():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for kind, text, line in raised(path):
            found.append(kind)
            if kind != "UsageError":
                assert "--" not in text, f"{path}:{line}"
    assert len(found) > 80 and set(found) > {"DataError", "RunError", "WorkdirError"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", "a b"),
        ("\x1b[2J\n", r"\x1b[2J\n"),
        ("a\rb\tc\0", r"a\rb\tc\x00"),
        ("\u202eexe.png\u2028\x85", r"\u202eexe.png\u2028\x85"),
        ("\udcff \x9b2J", r"\udcff \x9b2J"),
        ("ünï 猫", "ünï 猫"),
        ("x" * 400, "x" * 150 + "...[100 characters]..." + "x" * 150),
    ],
)
def test_what_is_printed_is_one_line_that_no_terminal_obeys(text, expected):
    assert errors.printable(text) == expected
    for error in (ValueError(text), errors.DataError(text), OSError(text)):
        assert errors.for_command_line(error) == expected
    parser = errors.ArgumentParser(prog="x")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--{text}"])


def test_long_texts_are_cut_in_their_middle():
    text = errors.printable("begin " + "word " * 10**6 + "end")
    assert len(text) < 4100 and text.startswith("begin") and text.endswith("end")
    assert "characters]..." in text
