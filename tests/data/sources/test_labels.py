"""Labels from a table, beside class folders or instead of them."""

import shutil

import numpy as np
import pytest

from autodo_jax.data.sources import folder
from autodo_jax.errors import DataError
from tests.bad_input import save, tree
from tests.data.sources.test_folder import fields


def load(data_dir, **changed):
    return folder.load(fields(data_dir, **changed), 0)


def found(part):
    names = np.array(part.class_names)[part.labels]
    return dict(zip(part.ids.tolist(), names.tolist(), strict=True))


@pytest.fixture
def flat(tmp_path):
    """Six images in one folder."""
    for i in range(6):
        save(tmp_path / f"flat/{i}.png", seed=i)
    return tmp_path / "flat"


LABELS = {f"{i}.png": ("cat", "dog")[i % 2] for i in range(6)}
TABLE = "file_name,label\n" + "".join(f"{k},{v}\n" for k, v in LABELS.items())


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (TABLE, {}),
        ("\ufeff" + TABLE.replace(",", ";").replace("\n", "\r\n"), {}),
        (
            TABLE.replace("file_name,label", "path,class"),
            {"file_column": "path", "label_column": "class"},
        ),
        (TABLE.replace("5.png", "./x/../5.png"), {}),
    ],
)
@pytest.mark.parametrize("pack", [None, "zip", "gztar"])
def test_a_table_beside_the_images_gives_their_labels(flat, content, changed, pack):
    (flat / "metadata.csv").write_text(content)
    path = shutil.make_archive(str(flat.parent / "x"), pack, flat) if pack else flat
    parts = load(path, **changed)
    assert found(parts.train) == LABELS
    assert parts.validation is None and parts.test is None


@pytest.mark.parametrize("place", ["below", "beside", "elsewhere"])
def test_a_table_may_be_given(flat, tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, given = {
        "below": (flat / "list.csv", "list.csv"),
        "beside": (flat / "list.csv", str(flat / "list.csv")),
        "elsewhere": (tmp_path / "list.csv", "list.csv"),
    }[place]
    file.write_text(TABLE)
    assert found(load(flat, labels=given).train) == LABELS


def test_a_table_gives_parts(flat):
    parts = ["train", "train", "Valid", "valid", "TEST", "test"]
    rows = zip(LABELS.items(), parts, strict=True)
    text = "label,split,file_name\n"
    text += "".join(f"{label},{part},{name}\n" for (name, label), part in rows)
    (flat / "metadata.csv").write_text(text)
    loaded = load(flat)
    assert [found(part) for part in loaded] == [
        {name: LABELS[name] for name in (f"{i}.png", f"{i + 1}.png")} for i in (0, 2, 4)
    ]
    renamed = text.replace("split", "fold")
    (flat / "metadata.csv").write_text(renamed)
    assert [found(part) for part in load(flat, split_column="fold")] == [
        found(part) for part in loaded
    ]


def test_a_table_in_each_part_is_read(tmp_path):
    for part in ("train", "validation", "test"):
        for i in range(2):
            save(tmp_path / f"x/{part}/{i}.png", seed=i + len(part))
        text = "file_name,label\n0.png,cat\n1.png,dog\n"
        (tmp_path / f"x/{part}/metadata.csv").write_text(text)
    for part, name in zip(
        load(tmp_path / "x"), ("train", "validation", "test"), strict=True
    ):
        assert found(part) == {f"{name}/0.png": "cat", f"{name}/1.png": "dog"}


def test_a_table_beside_class_folders_prevails_where_it_says_something(tmp_path):
    root = tree(tmp_path)
    before = found(load(root).train)
    (root / "metadata.csv").write_text("file_name,label\ntrain/cat/1.png,dog\n")
    parts = load(root)
    assert found(parts.train) == {**before, "train/cat/1.png": "dog"}
    notes = dict(parts.train.notes)
    assert notes["labels"].endswith("1 of them in a folder of another class")


def test_what_has_no_label_is_left_out_and_said(flat):
    lines = TABLE.splitlines()
    (flat / "metadata.csv").write_text("\n".join([*lines[:4], "3.png,", *lines[5:6]]))
    train = load(flat).train
    assert [*found(train)] == ["0.png", "1.png", "2.png", "4.png"]
    said = dict(train.notes)["left out"]
    assert said == "2 images without a label, among them 5.png"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "name,label\n0.png,cat\n",
            "no column file_name, it has name, label; name them",
        ),
        ("", "cannot read metadata.csv: it is empty"),
        (
            TABLE + "9.png,cat\n8.png,dog\n",
            "7 .*8.*2 of which are not images.*8.png, 9",
        ),
        (TABLE + "0.png,dog\n", "metadata.csv has two rows for 0.png, with different"),
        (TABLE + ",dog\n", "has a row without file_name"),
        (TABLE + "../../../etc/passwd,dog\n", "1 of which are not images of this"),
        ("file_name,label,split\n0.png,cat,holdout\n", "has the split 'holdout', exp"),
        ("file_name,label\n0.png,cat\n1.png,cat\n", "has a single class in"),
        (TABLE.replace("\n", "\n" + "x" * 200_000 + "\n", 1), "field larger than"),
        ("\0\1\2", "no column file_name, label"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(flat, content, expected):
    (flat / "metadata.csv").write_text(content)
    with pytest.raises(
        DataError, match=expected.replace("7 .*8.*2", "8 files, 2")
    ) as e:
        load(flat)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500


def test_a_table_that_is_not_there_is_refused(flat):
    with pytest.raises(DataError, match="there is no table of labels nothing"):
        load(flat, labels="nothing.csv")


CORRECTIONS = "id,given_label,decision,new_label\n"


def test_corrections_of_a_review_are_trained_on(tmp_path):
    root = tree(tmp_path)
    before = found(load(root).train)
    file = tmp_path / "review.csv"
    file.write_text(
        CORRECTIONS + "train/cat/0.png,cat,relabel,dog\ntrain/cat/1.png,cat,keep,\n"
        "train/dog/2.png,dog,drop,\n"
    )
    train = load(root, corrections=str(file)).train
    expected = {**before, "train/cat/0.png": "dog"}
    del expected["train/dog/2.png"]
    assert found(train) == expected
    assert dict(train.notes)["corrections"].endswith("1 relabelled, 1 dropped")


def test_an_edited_table_of_a_run_is_one_of_corrections(tmp_path):
    root = tree(tmp_path)
    before = found(load(root).train)
    file = tmp_path / "edited.csv"
    edited = {**before, "train/dog/1.png": "cat"}
    lines = [
        f"{i};{name};{label};0,5" for i, (name, label) in enumerate(edited.items())
    ]
    file.write_text("\ufeffindex;id;given_label;noise_score\n" + "\n".join(lines))
    assert found(load(root, corrections=str(file)).train) == edited


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", "has no column id, decision, new_label; pass the table of a"),
        (CORRECTIONS + "train/cat/9.png,cat,drop,\n", "1 of which are not images"),
        (CORRECTIONS + "train/cat/0.png,cat,maybe,\n", "has the decision 'maybe'"),
        (CORRECTIONS + "train/cat/0.png,cat,relabel,\n", "and a label to relabel"),
    ],
)
def test_corrections_that_cannot_be_used_are_refused(tmp_path, content, expected):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=expected):
        load(tree(tmp_path), corrections=str(tmp_path / "x.csv"))
