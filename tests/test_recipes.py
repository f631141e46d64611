"""The recipes of examples/recipes as a user runs them, on a report of the truth."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from autodo_jax.data import run_data
from autodo_jax.workdir import dataset_report
from configs import digits

RECIPES = pathlib.Path(__file__).parents[1] / "examples/recipes"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What a run would leave that has found out each label."""
    folder = tmp_path_factory.mktemp("run")
    config = digits.get_config()
    config.data.validation_size = 0.3
    points = run_data.load(config)
    (folder / "config.json").write_text(config.to_json_best_effort())
    train = points.splits.train
    report = dataset_report.create(
        ids=train.ids,
        labels=train.labels,
        class_names=train.class_names,
        suggested=points.clean_labels,
        confidence=np.full(len(train.labels), 0.95),
        noise_score=np.where(points.is_flipped, 0.98, 0.05),
        weight=np.where(points.is_flipped, 0.5, 1.5),
        gate={},
        magnitude={},
    )
    with open(folder / "dataset.csv", "wb") as file:
        dataset_report.write_csv(file, report)
    return folder, int(points.is_flipped.sum())


def printed(name, workdir):
    done = subprocess.run(
        [sys.executable, str(RECIPES / f"{name}.py"), str(workdir)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["retrain_sklearn", "retrain_torch"])
def test_retraining_on_the_report_beats_the_given_labels(name, workdir):
    if name == "retrain_torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch")
    lines = printed(name, workdir[0]).splitlines()
    errors = {line[:30].strip(): float(line[30:]) for line in lines}
    assert len(errors) == 5
    assert errors["learned weights and labels"] < errors["given labels"]
    assert errors["learned + validation set"] < errors["given labels + validation set"]


def test_cleanlab_trains_without_the_suspects(workdir):
    said = printed("hand_to_cleanlab", workdir[0])
    before, after = map(float, re.findall(r"([\d.]+) %", said))
    assert after < before
    assert "Label Quality Score" in said
