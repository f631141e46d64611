"""Who may import whom: the parts stay apart as the design has them."""

import pathlib
import subprocess
import sys

import pytest

from docs.draw_architecture import ANYONE, TARGET, drawing, imports

PACKAGE = pathlib.Path(__file__).parents[1] / "autodo_jax"
LEAVES = {"implicit", "hyperparams", "augment", "losses", "models", "data", "metrics"}
LEAVES |= {"distributed", "processes"}
ALLOWED = {
    **{name: set() for name in ANYONE},
    **{leaf: {leaf} for leaf in LEAVES},
    "objective": {"objective", "hyperparams", "augment", "losses", "models", "data"},
    "config": {"config", "augment", "data", "models"},
    "workdir": {"workdir", "config"},
    "train": LEAVES | {"train", "objective", "config", "workdir"},
    "report": {"report", "config", "workdir"},
    "export": {"export", "data", "workdir"},
    "command_line": {"config", "processes", "programs"},
    "programs": {"programs"},
    "embed": {"command_line", "config", "data", "models", "objective", "train"}
    | {"workdir"},
    "main": {"command_line", "config", "processes", "report", "train", "workdir"},
    "api": {"config", "data", "distributed", "models", "predict", "report", "train"}
    | {"workdir"},
    "review": {"review", "data", "export", "workdir"},
    "export_model": {"export_model", "predict", "workdir"},
    "predict": {"predict", "data", "distributed", "models", "objective", "workdir"},
}
# Within data: the stages in their order, and what they share below them.
SHARED = {"dataset", "split", "distort", "checks"}
DATA = {
    "images": {"images"},
    "dataset": {"images"},
    "split": {"dataset"},
    "distort": {"dataset"},
    "checks": {"dataset", "images"},
    "sources": {"sources", "dataset", "images", "split"},
    "batches": {"batches", "dataset"},
    "prepare": {"prepare", "sources"},
    "duplicates": {"dataset"},
    "summary": {"dataset", "duplicates"},
    "run_data": {"sources", "duplicates", "summary", *SHARED},
}


def modules_of(root, part):
    single = root / f"{part}.py"
    return [single] if single.exists() else sorted((root / part).rglob("*.py"))


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_it_may(part):
    for path in modules_of(PACKAGE, part):
        found = {first for first, *_ in imports(path)}
        assert found <= ALLOWED[part] | ANYONE, path


@pytest.mark.parametrize("part", sorted(DATA))
def test_a_stage_of_data_imports_only_what_it_may(part):
    for path in modules_of(PACKAGE / "data", part):
        found = {second for first, second, *_ in imports(path) if first == "data"}
        assert found <= DATA[part], path


@pytest.mark.parametrize(("root", "rules"), [("", ALLOWED), ("data", DATA)])
def test_every_part_has_a_rule(root, rules):
    parts = {
        path.stem
        for path in (PACKAGE / root).iterdir()
        if path.suffix == ".py" or path.is_dir()
    }
    assert parts - {"__init__", "__pycache__"} == set(rules)


def test_the_picture_shows_the_imports():
    """After a change of the imports: python docs/draw_architecture.py."""
    assert TARGET.read_text() == drawing(PACKAGE)


def test_few_modules_lie_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 14


def test_importing_the_package_imports_nothing_that_trains():
    program = (
        "import sys, autodo_jax; print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    slow = {"flax", "orbax", "sklearn", "matplotlib", "ml_collections", "PIL"}
    slow |= {"tensorboardX", "tensorflow_datasets", "pyarrow"}
    assert slow.isdisjoint(done.stdout.split())


def test_there_are_no_circles():
    paths = {
        path.relative_to(PACKAGE).with_suffix("").parts: path
        for path in PACKAGE.rglob("*.py")
    }
    imported = {}
    for name, path in paths.items():
        found = {
            module[:end]
            for module in imports(path)
            for end in range(1, len(module) + 1)
        }
        packages = {module for module in found if (*module, "__init__") in paths}
        imported[name] = {module for module in found if module in paths} | {
            # Of a package its own file, where that is what the import names.
            (*module, "__init__")
            for module in packages
            if any(name == module for name in imports(path))
        }
    done: set[tuple] = set()
    current: list[tuple] = []

    def visit(name):
        assert name not in current, [*current[current.index(name) :], name]
        if name not in done:
            current.append(name)
            for other in sorted(imported[name] - {name}):
                visit(other)
            current.pop()
            done.add(name)

    for name in sorted(paths):
        visit(name)


def test_no_module_bears_the_name_of_a_public_function():
    import autodo_jax

    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    functions = {
        name for name in autodo_jax.__all__ if callable(getattr(autodo_jax, name))
    }
    assert modules.isdisjoint(functions)
