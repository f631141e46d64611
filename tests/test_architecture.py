"""Who may import whom: the parts stay apart as the design has them."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "autodo_jax"
ANYONE = {"_typing", "errors", "version"}  # which import nothing of the package
LEAVES = {"implicit", "hyperparams", "augment", "losses", "models", "data", "metrics"}
LEAVES |= {"distributed", "processes"}
ALLOWED = {
    **{name: set() for name in ANYONE},
    **{leaf: {leaf} for leaf in LEAVES},
    "objective": {"objective", "hyperparams", "augment", "losses", "models", "data"},
    "config": {"augment", "data", "models"},
    "workdir": {"workdir", "config"},
    "train": LEAVES | {"train", "objective", "config", "workdir"},
    "report": {"report", "config", "workdir"},
    "export": {"export", "config", "data", "workdir"},
    "main": {"main", "config", "data", "processes", "report", "train", "workdir"},
    "api": {
        "api",
        "config",
        "data",
        "distributed",
        "processes",
        "report",
        "train",
        "workdir",
    },
}


def part_of(module):
    """`autodo_jax.data.split` -> `data`; None for modules of others."""
    top, *rest = module.split(".")
    return rest[0] if top == "autodo_jax" and rest else None


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from filter(None, map(part_of, modules))


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_it_may(part):
    single = PACKAGE / f"{part}.py"
    for path in [single] if single.exists() else (PACKAGE / part).rglob("*.py"):
        assert set(imported_parts(path)) <= ALLOWED[part] | ANYONE, path


def test_every_part_has_a_rule():
    parts = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert parts - {"__init__", "__pycache__"} == set(ALLOWED)


def test_no_module_bears_the_name_of_a_public_function():
    import autodo_jax

    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    functions = {
        name for name in autodo_jax.__all__ if callable(getattr(autodo_jax, name))
    }
    assert modules.isdisjoint(functions)
