"""python -m autodo_jax.predict: the test error of the run, from files of any kind."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import autodo_jax
from autodo_jax import main
from autodo_jax.data.sources import folder
from autodo_jax.predict import __main__ as predict
from tests.bad_input import folder_flags, save, tarred, tree, zipped
from tests.data.sources.test_folder import fields
from tests.test_main import ROOT

SMALL = {
    "data.image_size": "(8, 8)",
    "augment.crop_size": "6",
    "augment.policy": "none",
    "model.name": "small_cnn",
    "model.widths": "(4,)",
    "batch_size": "2",
    "num_devices": "1",
    "epochs": "1",
    "hyper.frozen": "True",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(images, workdir) of a run on a folder of images of several sizes."""
    path = tmp_path_factory.mktemp("predict")
    root = tree(path)
    save(root / "test/cat/wide.png", 7, size=(40, 9))
    flags = [f"--config.{name}={value}" for name, value in SMALL.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        arguments = folder_flags(root, *flags, f"--workdir={path}/run")
        assert main.main(["main", *arguments]) == 0
    return root, path / "run"


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def run(capfdbinary, *arguments):
    """Exit status, rows on the screen, what was said."""
    capfdbinary.readouterr()
    status = predict.main([str(argument) for argument in arguments])
    out, err = capfdbinary.readouterr()
    return status, rows_of(out.decode()), err.decode()


def packed(kind, root, path):
    if kind == "folder":
        return root / "test"
    part = path / "part"
    shutil.copytree(root / "test", part / "test")
    return tarred(path, part, "w:gz") if kind == "tar" else zipped(path, part)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_its_labels_make_the_test_error(kind, trained, tmp_path, capfdbinary):
    root, workdir = trained
    path = packed(kind, root, tmp_path)
    status, rows, said = run(capfdbinary, workdir, path)
    result = json.loads((workdir / "result.json").read_text())
    assert status == 0 and len(rows) == result["num_test"] == 7
    wrong = [row["predicted_label"] != row["id"].split("/")[-2] for row in rows]
    assert 100 * np.mean(wrong) == result["test_error"]
    assert "7 images classified" in said
    # The columns are those of the contract; probabilities are load_run's.
    found = autodo_jax.load_run(workdir)
    test = folder.load(fields(root, image_size=(8, 8), mean=(0.0,) * 3), 0).test
    assert test is not None
    expected = dict(zip(test.ids, found.predict(test.images), strict=True))
    for row in rows:
        label, *columns = row["id"].split("/")[-2:]
        values = expected["/".join(["test", label, *columns])]
        assert list(row) == [
            *("id", "predicted_label", "confidence"),
            *("probability_cat", "probability_dog"),
        ]
        given = [float(row[f"probability_{name}"]) for name in ("cat", "dog")]
        np.testing.assert_allclose(given, values, rtol=1e-5)
        assert float(row["confidence"]) == max(given)


@pytest.mark.slow
def test_a_streamed_run_makes_its_test_error(
    trained, tmp_path, monkeypatch, capfdbinary
):
    monkeypatch.chdir(ROOT)
    root, _ = trained
    flags = [f"--config.{name}={value}" for name, value in SMALL.items()]
    flags += ["--config.data.stream=True", f"--workdir={tmp_path}/run"]
    assert main.main(["main", *folder_flags(root, *flags)]) == 0
    status, rows, _ = run(capfdbinary, tmp_path / "run", root / "test")
    result = json.loads((tmp_path / "run/result.json").read_text())
    wrong = [row["predicted_label"] != row["id"].split("/")[-2] for row in rows]
    assert status == 0 and 100 * np.mean(wrong) == result["test_error"]
    test = folder.load(fields(root, image_size=(8, 8), mean=(0.0,) * 3), 0).test
    assert test is not None
    predicted = autodo_jax.load_run(tmp_path / "run").predict(test.images)
    error = 100 * np.mean(predicted.argmax(axis=1) != test.labels)
    assert error == result["test_error"]


def test_what_cannot_be_read_is_named_and_left_out(trained, tmp_path, capfdbinary):
    root, workdir = trained
    images = tmp_path / "images"
    shutil.copytree(root / "test/dog", images)
    (images / "a\x1b[31m.png").write_bytes(b"")
    (images / "half.jpg").write_bytes((images / "0.png").read_bytes()[:60])
    (images / "gone.png").symlink_to("nowhere")
    (images / "notes.txt").write_text("no image")
    shutil.copy(images / "1.png", images / "without_suffix")
    Image.open(images / "1.png").save(images / "x.TIFF")
    output = tmp_path / "found.csv"
    status, rows, said = run(capfdbinary, workdir, images, f"--output={output}")
    assert status == 1 and rows == []
    rows = rows_of(output.read_text())
    names = ["0.png", "1.png", "2.png", "without_suffix", "x.TIFF"]
    assert [row["id"] for row in rows] == names
    numbers = [row["probability_cat"] for row in rows]
    assert numbers[1] == numbers[3] == numbers[4] != numbers[0]
    for name in (r"a\x1b[31m.png", "half.jpg", "gone.png"):
        assert f"the image {name}" in said
    assert "\x1b" not in said and "1 files that are not images are left out" in said


def test_single_files_and_several_paths(trained, capfdbinary):
    root, workdir = trained
    file, part = root / "test/cat/wide.png", root / "test/dog"
    status, rows, _ = run(capfdbinary, workdir, file, part)
    assert status == 0
    names = [f"{part}/{i}.png" for i in range(3)]
    assert [row["id"] for row in rows] == [str(file), *names]


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (lambda root, run: [run, root / "nothing"], 2, "nothing does not exist"),
        (lambda root, run: [root, root], 2, "cannot read .*config.json|no result.json"),
        (lambda root, run: [run, run / "config.json"], 1, "config.json cannot be read"),
        (lambda root, run: [run, root, "--output=/nowhere/x"], 1, "cannot write"),
    ],
)
def test_what_cannot_be_done_is_said(trained, arguments, status, expected, capfdbinary):
    found, rows, said = run(capfdbinary, *arguments(*trained))
    assert found == status and rows == []
    assert re.search(expected, said)
