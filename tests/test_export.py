"""A cleaned image folder is one that the folder source reads; counts match."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from autodo_jax import export, load_dataset_report, main
from autodo_jax.data.sources import folder
from autodo_jax.workdir import dataset_report
from tests.bad_input import folder_flags, tarred, tree
from tests.data.sources.test_folder import fields
from tests.test_main import ROOT

# Train images of `tree`, two of which get another label.
IDS = [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(3)]
SCORES = np.array([0.9, 0.1, 0.2, 0.1, 0.8, 0.4])


def workdir_of(path, data_dir, ids=IDS, source="folder", suggested=(1, 0, 0, 1, 0, 0)):
    """The files of a finished run that the export reads."""
    workdir = path / "run"
    workdir.mkdir()
    data = {"source": source, "data_dir": str(data_dir)}
    (workdir / "config.json").write_text(json.dumps({"data": data}))
    report = dataset_report.create(
        ids=np.array(ids),
        labels=np.array([0, 0, 0, 1, 1, 1]),
        class_names=("cat", "dog"),
        suggested=np.array(suggested),
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
    if kind in ("copies", "archive"):  # They need no other files.
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
    left = load(tmp_path / "clean").train.ids
    differs = report.suggested_label != report.given_label
    dropped = set(report.id[(report.noise_score > threshold) & differs])
    assert set(IDS) - set(left) == dropped
    said = f"{18 - len(dropped)} images kept, 0 relabelled, {len(dropped)} dropped"
    assert said in capsys.readouterr().out


def files_of(path):
    names = (each.relative_to(path).as_posix() for each in path.rglob("*.*"))
    return sorted(name for name in names if name.startswith("train/"))


def test_it_says_how_many_of_which_class_and_how_many_should_be_wrong(tmp_path, capsys):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    assert export.main([str(workdir), f"--to={tmp_path}/clean"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "class cat: 1 dropped, 0 relabelled of 3 train images",
        "class dog: 1 dropped, 0 relabelled of 3 train images",
        "the run expects 85 % of the suspects to have a wrong label",
    ]


@pytest.mark.parametrize("suspects", ["drop", "relabel"])
@pytest.mark.parametrize("given", [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
def test_no_class_loses_all_its_images(given, suspects, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(f"{__name__}.SCORES", np.full(6, 0.9))
    workdir = workdir_of(tmp_path, tree(tmp_path), suggested=given)
    flags = [str(workdir), f"--to={tmp_path}/clean", f"--suspects={suspects}"]
    assert export.main(flags) == 0
    out = capsys.readouterr().out
    left = files_of(tmp_path / "clean")
    if given[3] or suspects == "drop":
        assert left == IDS and "class cat is left as it is" in out
        assert ("class dog is left" in out) == (not given[3])
    else:  # Each class gets the images of the other.
        assert all("was-" in name for name in left) and "left as it is" not in out


def test_a_suspect_whose_label_is_the_likeliest_is_kept(tmp_path, capsys):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    flags = [str(workdir), f"--to={tmp_path}/clean", "--threshold=0"]
    assert export.main(flags) == 0
    kept = [IDS[i] for i in (1, 2, 3)]  # The others have another suggested label.
    assert files_of(tmp_path / "clean") == kept


def test_a_review_is_done_instead(tmp_path, capsys):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    review = tmp_path / "decided.csv"
    review.write_text(
        "id,given_label,decision,new_label\ntrain/cat/0.png,cat,keep,\n"
        "train/cat/1.png,cat,relabel,dog\ntrain/dog/2.png,dog,drop,\n"
    )
    flags = [str(workdir), f"--to={tmp_path}/clean", f"--review={review}"]
    assert export.main(flags) == 0
    assert files_of(tmp_path / "clean") == [
        *("train/cat/0.png", "train/cat/2.png"),
        *("train/dog/0.png", "train/dog/1.png", "train/dog/was-cat/1.png"),
    ]
    assert "16 images kept, 1 relabelled, 1 dropped" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export.main([*flags, "--threshold=0.4"])


def test_of_copies_the_least_suspect_is_kept(tmp_path, capsys):
    root = tree(tmp_path)
    with Image.open(root / IDS[1]) as image:
        image.save(root / "train/dog/1.bmp")  # Of 1.png, which it replaces.
    (root / IDS[4]).unlink()
    ids = [*IDS[:4], "train/dog/1.bmp", IDS[5]]
    workdir = workdir_of(tmp_path, root, ids)
    flags = [str(workdir), f"--to={tmp_path}/clean", "--threshold=1"]
    assert export.main([*flags, "--drop_duplicates"]) == 0
    assert files_of(tmp_path / "clean") == sorted({*ids} - {"train/dog/1.bmp"})


def test_the_name_of_a_class_leads_nowhere_else(tmp_path, capsys):
    root = tree(tmp_path)
    lines = [f"{name},{'../../x' if 'cat' in name else 'dog'}" for name in IDS]
    (root / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    workdir = workdir_of(tmp_path, root)
    assert export.main([str(workdir), f"--to={tmp_path}/clean"]) == 2
    assert "'../../x' cannot be the name of a folder" in capsys.readouterr().err
    assert not (tmp_path / "clean").exists()


def test_a_table_that_a_spreadsheet_has_saved_is_read(tmp_path, capsys):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    path = workdir / "dataset.csv"
    path.write_text("\ufeff" + path.read_text().replace(",", ";").replace(".9", ",9"))
    assert export.main([str(workdir), f"--to={tmp_path}/clean"]) == 0
    assert "16 images kept, 0 relabelled, 2 dropped" in capsys.readouterr().out
