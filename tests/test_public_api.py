"""The public functions: their examples run, and they keep the rules of the project."""

import doctest
import inspect

import jax
import pytest

import autodo_jax
from autodo_jax import curvature, preconditioners, solvers

MODULES = (curvature, preconditioners, solvers)
FUNCTIONS = {
    name: getattr(autodo_jax, name)
    for name in autodo_jax.__all__
    if inspect.isfunction(getattr(autodo_jax, name))
} | {
    f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
    for module in MODULES
    for name in getattr(module, "__all__", vars(module))
    if inspect.isfunction(getattr(module, name))
    and getattr(module, name).__module__.startswith("autodo_jax")
    and not name.startswith("_")
}
# Their examples train.
SLOW = {"optimize_dataset", "load_run", "load_dataset_report"}
# Options that DESIGN's contract has as positional ones, in the order of the paper.
POSITIONAL = {
    "curvature.finite_difference": 2,
    "curvature.fisher": 2,
    "curvature.gauss_newton": 3,
    "curvature.hessian": 2,
    "implicit_argmin": 3,
    "implicit_fixed_point": 2,
    "solvers.largest_eigenvalue": 4,
    "solvers.neumann": 3,
}


def params():
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in FUNCTIONS
    ]


@pytest.mark.parametrize("name", params())
def test_the_example_runs(name):
    found = doctest.DocTestFinder(recurse=False).find(FUNCTIONS[name], name)
    examples = [test for test in found if test.examples]
    assert examples, f"{name} has no example"
    said: list[str] = []
    with jax.numpy_rank_promotion("allow"):
        for test in examples:
            doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    """What has a default is an option; the first of them may be the data's size."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    positional = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    options = [p for p in positional if p.default is not p.empty]
    assert len(options) <= 1 or len(positional) <= POSITIONAL.get(name, 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_describe_arguments_and_errors(name):
    text = inspect.getdoc(FUNCTIONS[name])
    assert text and text.splitlines()[0].endswith((".", ":"))
    parameters = [
        p.name
        for p in inspect.signature(FUNCTIONS[name]).parameters.values()
        if p.kind != p.VAR_KEYWORD
    ]
    refers = "value_and_hypergrad" in text or "implicit_argmin" in text
    missing = [p for p in parameters if p not in text and not refers]
    assert not missing, missing


def test_keys_come_first():
    """In the functions of images, as dm-pix has it."""
    from autodo_jax.augment import gates, learned, policies, standard

    checked = 0
    for module in (gates, learned, policies, standard):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                names = list(inspect.signature(function).parameters)
                for key in {"key", "keys"} & set(names):
                    assert names.index(key) == 0, name
                    checked += 1
    assert checked > 8
