"""Bugs of published hypergradient code, planted in copies: the bank finds each one."""

import importlib
import itertools
import pathlib
import sys
from typing import NamedTuple

import pytest

import autodo_jax.implicit
from tests.implicit import bank

SOURCE = pathlib.Path(autodo_jax.implicit.__file__).parent
NUMBER = itertools.count()


class Mutant(NamedTuple):
    check: str  # the check that must fail
    file: str
    edits: dict[str, str]  # each old text occurs exactly once


# Block-diagonal over the leaves of the parameters.
BLOCKED = """lambda v: jax.tree.unflatten(
        jax.tree.structure(v),
        [
            jax.tree.leaves(
                on_vectors(system.matvec)(
                    jax.tree.unflatten(
                        jax.tree.structure(v),
                        [
                            leaf if i == j else 0 * leaf
                            for j, leaf in enumerate(jax.tree.leaves(v))
                        ],
                    )
                )
            )[i]
            for i in range(len(jax.tree.leaves(v)))
        ],
    )"""

# The step that meets the tolerance is dropped.
STALE = """        x = tree.select(tree.norm(r) > threshold, x, s.x)
            z = precondition(r)
            rz"""

MUTANTS = {
    "the step size is missing": Mutant(
        "P9",
        "series.py",
        {"start = tree.scale(step, b)": "start = b"},
    ),
    "no direct term": Mutant(
        "P1b",
        "gradient.py",
        {"tree.add_scaled(direct,": "tree.add_scaled(tree.scale(0, direct),"},
    ),
    "wrong sign": Mutant("P1b", "gradient.py", {"direct, -b_norm": "direct, b_norm"}),
    "the identity for the Hessian": Mutant(
        "P4",
        "gradient.py",
        {"matvec = on_vectors(system.matvec)": "matvec = on_vectors(lambda v: v)"},
    ),
    "directions from the old residual": Mutant(
        "P4",
        "krylov.py",
        {"p=tree.add_scaled(z, ratio, s.p)": "p=tree.add_scaled(s.r, ratio, s.p)"},
    ),
    "a residual step of ten": Mutant(
        "isotropic",
        "krylov.py",
        {
            "r = tree.add_scaled(s.r, -length, product)\n            z =": "r = "
            "tree.add_scaled(s.r, -10 * length, product)\n            z ="
        },
    ),
    "the last iterate is dropped": Mutant(
        "isotropic",
        "krylov.py",
        {"            z = precondition(r)\n            rz": "    " + STALE},
    ),
    "block-diagonal Hessian": Mutant(
        "P4",
        "gradient.py",
        {"matvec = on_vectors(system.matvec)": f"matvec = {BLOCKED}"},
    ),
    "hidden damping": Mutant(
        "P1b",
        "gradient.py",
        {
            "matvec = on_vectors(system.matvec)": "matvec = on_vectors("
            "lambda v: tree.add_scaled(system.matvec(v), 0.01, v))"
        },
    ),
    "one product too few, unrolled": Mutant(
        "T=5",
        "loops.py",
        {"for i in range(num_times)": "for i in range(num_times - 1)"},
    ),
    "one product too few, in a loop": Mutant(
        "P9",
        "loops.py",
        {
            "fori_loop(0, num_times, body, state)\n    for": "fori_loop("
            "1, num_times, body, state)\n    for",
        },
    ),
    "one product too many": Mutant(
        "T=5",
        "loops.py",
        {"for i in range(num_times)": "for i in range(num_times + 1)"},
    ),
    "the system of a root is not transposed": Mutant(
        "P8",
        "adjoint.py",
        {
            "lambda v: pullback(v)[0], pullback_both": "lambda v: jax.jvp(lambda t: "
            "optimality_fn(t, hparams), (params,), (v,))[1], pullback_both"
        },
    ),
    "the warm start is not subtracted": Mutant(
        "P12",
        "adjoint.py",
        {"rhs = tree.select(helps, residual, unit_b)": "rhs = unit_b"},
    ),
    "the warm start is not used": Mutant(
        "P12",
        "adjoint.py",
        {"x = tree.cast_like(": "x0 = None; x = tree.cast_like("},
    ),
    "the same batch for each product": Mutant(
        "batches",
        "hypergradient.py",
        {"theta, lam, take_batch(inner_batches, j))": "theta, lam, args)"},
    ),
    "no mean over the devices": Mutant(
        "shards",
        "adjoint.py",
        {"lambda x: jax.lax.pmean(x, axis_name),": "lambda x: x,"},
    ),
    "no floor under the range": Mutant(
        "P11",
        "direct.py",
        {"x = x + (flat_b - u @ jnp.where(in_range, along, 0)) / self.damping": "pass"},
    ),
    "a right-hand side that underflows": Mutant(
        "tiny",
        "gradient.py",
        {"unit_b, b_norm = tree.normalize(b)": "unit_b, b_norm = b, jnp.ones(())"},
    ),
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Imports a copy of the library with the edits of a mutant."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def plant(file: str | None = None, edits: dict[str, str] | None = None):
        name = f"planted_{next(NUMBER)}"
        (tmp_path / name).mkdir()
        for path in SOURCE.glob("*.py"):
            text = path.read_text()
            for old, new in (edits or {}).items() if path.name == file else ():
                assert text.count(old) == 1, f"{old!r} is not in {file} exactly once"
                text = text.replace(old, new)
            text = text.replace("autodo_jax.implicit", name)
            (tmp_path / name / path.name).write_text(text)
        names.append(name)
        return importlib.import_module(name)

    yield plant
    for name in list(sys.modules):
        if name.split(".")[0] in names:
            del sys.modules[name]


@pytest.mark.parametrize("check", bank.QUICK_CHECKS)
def test_an_unchanged_copy_passes(planted, check, x64):
    bank.QUICK_CHECKS[check](planted())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_planted_bug_is_found(planted, mutant, x64):
    check, file, edits = MUTANTS[mutant]
    library = planted(file, edits)
    assert library.__file__ != autodo_jax.implicit.__file__
    with pytest.raises(AssertionError, match="relative error"):
        bank.QUICK_CHECKS[check](library)
