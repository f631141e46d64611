"""Each example achieves what it is there to show: learned beats not learned.

At reduced size in this process; at full size as a user runs it, when the output must be
the one in its docstring.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")


@pytest.fixture
def run():
    """Runs `main` of an example with other sizes."""

    def run_main(name, **sizes):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with jax.numpy_rank_promotion("allow"):
            return module.main(**sizes)

    return run_main


def test_ridge_penalties(run):
    found = run("ridge_penalties", num_seeds=2, outer_steps=60)
    assert found["gradient_error"] < 1e-10
    assert found["learned_penalties"] < 0.75 * found["shared_penalty"]
    assert found["shared_penalty"] < found["least_squares"]


def test_data_reweighting(run):
    found = run("data_reweighting", num_seeds=2, outer_steps=40, fit_steps=300)
    assert found["learned_weights"] < 0.3 * found["unweighted"]
    assert found["learned_weights"] < found["valid_only"]
    assert found["noise_auroc"] > 0.9


@pytest.mark.slow
def test_imaml(run):
    found = run("imaml", num_seeds=1, meta_steps=80, num_test_tasks=60)
    for kind in ("new_images", "new_classes"):
        assert found[f"meta_learned_{kind}"] > found[f"fresh_{kind}"]
    assert found["meta_learned_new_images"] > found["fresh_new_images"] + 4


def test_dataset_distillation(run):
    found = run("dataset_distillation", num_seeds=2, outer_steps=150)
    assert found["synthetic"] < 0.35 * found["real_images"]
    assert found["synthetic"] < found["class_means"]
    assert found["all_images"] < found["synthetic"]  # Nothing for nothing.


@pytest.mark.slow
def test_equilibrium(run):
    found = run("equilibrium", num_seeds=1, num_steps=100, depths=(2,))
    assert found["gradient_error"] < 1e-10
    assert found["equilibrium"] > found["2_layers"] + 40


def test_pmap_reweighting(run):
    found = run("pmap_reweighting", outer_steps=30)
    assert found["gradient_difference"] < 1e-5
    assert found["four_devices"] < 0.4 * found["unweighted"]
    assert abs(found["four_devices"] - found["one_device"]) < 0.5


@pytest.mark.long
@pytest.mark.full_compile
@pytest.mark.parametrize("name", NAMES)
def test_prints_what_its_docstring_says(name, tmp_path):
    path = EXAMPLES / f"{name}.py"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = path.read_text().split("It prints\n\n")[1].split('\n"""')[0].splitlines()
    printed = done.stdout.splitlines()
    assert len(said) == len(printed) > 0
    for expected, line in zip(said, printed, strict=True):
        assert NUMBER.sub("#", expected).split() == NUMBER.sub("#", line).split()
        pairs = zip(NUMBER.findall(expected), NUMBER.findall(line), strict=True)
        for a, b in ((float(a), float(b)) for a, b in pairs):
            # Training amplifies the rounding of another machine.
            assert abs(a - b) <= 0.1 * a or max(a, b) < 1e-5
