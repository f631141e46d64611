"""A cleaned image folder is one that the folder source reads; counts match."""

import json
import shutil

import numpy as np
import pytest

from autodo_jax import export, load_dataset_report, main
from autodo_jax.data.sources import folder
from autodo_jax.workdir import dataset_report
from tests.bad_input import folder_flags, tarred, tree
from tests.data.sources.test_folder import fields
from tests.test_main import ROOT

# Train images of `tree`, two of which get another label.
IDS = [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(3)]
SCORES = np.array([0.9, 0.1, 0.2, 0.1, 0.8, 0.4])


def workdir_of(path, data_dir, ids=IDS, source="folder"):
    """The files of a finished run that the export reads."""
    workdir = path / "run"
    workdir.mkdir()
    data = {"source": source, "data_dir": str(data_dir)}
    (workdir / "config.json").write_text(json.dumps({"data": data}))
    report = dataset_report.create(
        ids=np.array(ids),
        labels=np.array([0, 0, 0, 1, 1, 1]),
        class_names=("cat", "dog"),
        suggested=np.array([1, 0, 0, 1, 0, 0]),
        confidence=np.ones(6),
        noise_score=SCORES,
        weight=np.ones(1),
        gate={},
        magnitude={},
    )
    with open(workdir / "dataset.csv", "wb") as file:
        dataset_report.write_csv(file, report)
    return workdir


def load(path):
    return folder.load(fields(path), seed=0)


@pytest.mark.parametrize("kind", ["links", "copies", "archive", "nested"])
@pytest.mark.parametrize("suspects", ["drop", "relabel"])
def test_suspects_are_left_out_or_get_their_label(kind, suspects, tmp_path, capsys):
    root, ids = tree(tmp_path), IDS
    before = load(root)
    data_dir = root
    if kind == "archive":
        data_dir = tarred(tmp_path, root, "w:gz")
    if kind == "nested":
        shutil.move(root, tmp_path / "outer/images")
        data_dir, ids = tmp_path / "outer", [f"images/{name}" for name in IDS]
    workdir = workdir_of(tmp_path, data_dir, ids)
    to = tmp_path / "clean"
    flags = [str(workdir), f"--to={to}", f"--suspects={suspects}"]
    assert export.main(flags + ["--copy"] * (kind == "copies")) == 0
    out = capsys.readouterr().out
    assert {
        "drop": "16 images kept, 0 relabelled, 2 dropped",
        "relabel": "16 images kept, 2 relabelled, 0 dropped",
    }[suspects] in out
    if kind in ("copies", "archive"):  # They stand alone.
        shutil.rmtree(root)
    after = load(to)
    for part, other in zip(after[1:], before[1:], strict=True):
        np.testing.assert_array_equal(part.images, other.images)
        np.testing.assert_array_equal(part.labels, other.labels)
    label_of = {
        image.tobytes(): label
        for image, label in zip(after.train.images, after.train.labels, strict=True)
    }
    expected = dict(
        zip(
            [image.tobytes() for image in before.train.images],
            [1, 0, 0, 1, 0, 1],
            strict=True,
        )
    )
    if suspects == "drop":
        del expected[before.train.images[0].tobytes()]
        del expected[before.train.images[4].tobytes()]
    assert label_of == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda run: ["--threshold=1.5"], "expected a number in [0, 1]"),
        (lambda run: ["--threshold=0"], "'cat' would have no train image left; raise"),
        (lambda run: (run / "dataset.csv").unlink(), "holds no dataset.csv"),
        (lambda run: [f"--to={run}"], "is not empty; pass a new folder"),
        (lambda run: shutil.rmtree(run.parent / "images"), "images does not exist"),
    ],
)
def test_what_cannot_be_exported_is_refused(change, expected, tmp_path, capsys):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    more = change(workdir) or []
    assert export.main([str(workdir), f"--to={tmp_path}/clean", *more]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_other_data_than_folders_are_refused(tmp_path, capsys):
    workdir = workdir_of(tmp_path, "", source="digits")
    assert export.main([str(workdir), f"--to={tmp_path}/clean"]) == 2
    assert "was trained on digits, but only image folders" in capsys.readouterr().err


def test_labels_that_an_experiment_changed_are_not_the_folders(tmp_path, capsys):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["noise_ratio"] = 0.1
    (workdir / "config.json").write_text(json.dumps(config))
    assert export.main([str(workdir), f"--to={tmp_path}/clean"]) == 2
    assert "changed by config.data.noise_ratio" in capsys.readouterr().err
    assert not (tmp_path / "clean").exists()


def test_a_folder_run_is_exported_as_its_report_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    root = tree(tmp_path)
    small = {
        "data.image_size": "(8, 8)",
        "augment.crop_size": "0",
        "augment.policy": "none",
        "model.name": "small_cnn",
        "model.widths": "(4,)",
        "batch_size": "2",
        "num_devices": "1",
        "epochs": "1",
        "hyper.frozen": "True",
    }
    flags = [f"--config.{name}={value}" for name, value in small.items()]
    command = folder_flags(root, *flags, f"--workdir={tmp_path}/run")
    assert main.main(["main", *command]) == 0
    report = load_dataset_report(tmp_path / "run")
    assert sorted(report.id) == IDS
    threshold = float(np.sort(report.noise_score)[-2])  # one point is above it
    flags = [f"{tmp_path}/run", f"--to={tmp_path}/clean", f"--threshold={threshold}"]
    assert export.main(flags) == 0
    assert "17 images kept, 0 relabelled, 1 dropped" in capsys.readouterr().out
    left = load(tmp_path / "clean").train.ids
    assert set(IDS) - set(left) == set(report.id[report.noise_score > threshold])
