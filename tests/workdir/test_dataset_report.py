"""dataset.csv: what is written is read back, by this package and by others."""

import csv
import dataclasses
import io

import numpy as np
import pytest
import scipy.special

import autodo_jax
from autodo_jax.augment.learned import OPERATIONS
from autodo_jax.train import loop
from autodo_jax.workdir import dataset_report
from tests.train.prepared import prepare, tiny_config


def report(**changed):
    rng = np.random.default_rng(0)
    fields: dict = {
        "ids": np.array(["a/1.png", 'b/"2", x.png', "c/ü.png", "=1+1"]),
        "labels": np.array([0, 1, 1, 2]),
        "class_names": ("cat", "dog, small", "<b>"),
        "suggested": np.array([0, 2, 1, 2]),
        "confidence": rng.uniform(size=4),
        "noise_score": rng.uniform(size=4),
        "weight": rng.uniform(size=4),
        "gate": {"rotate": rng.uniform(size=4), "hue": rng.uniform(size=1)},
        "magnitude": {"rotate": rng.uniform(size=4), "hue": rng.uniform(size=1)},
    }
    return dataset_report.create(**(fields | changed))


def write(folder, what):
    with open(folder / "dataset.csv", "wb") as file:
        dataset_report.write_csv(file, what)


def test_what_is_written_is_read_back(tmp_path):
    expected = report()
    write(tmp_path, expected)
    found = autodo_jax.load_dataset_report(tmp_path)
    for field in dataclasses.fields(found):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(ours, dict):
            assert list(ours) == list(theirs) == ["rotate", "hue"]
        pairs = ours if isinstance(ours, dict) else {"": ours}
        for name, values in pairs.items():
            other = theirs[name] if name else theirs
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, other, rtol=1e-5)
            else:
                np.testing.assert_array_equal(values, other)


def test_its_columns_are_those_of_the_contract_for_any_reader(tmp_path):
    write(tmp_path, report(weight=np.ones(1)))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "dataset.csv").read_text())))
    assert list(rows[0]) == [
        "index", "id", "given_label", "suggested_label", "label_confidence",
        "noise_score", "is_suspect", "weight", "gate_rotate", "gate_hue",
        "magnitude_rotate", "magnitude_hue",
    ]  # fmt: skip
    assert [row["index"] for row in rows] == list("0123")
    assert rows[1]["id"] == 'b/"2", x.png'
    assert (
        rows[1]["given_label"] == "dog, small" and rows[1]["suggested_label"] == "<b>"
    )
    assert {row["weight"] for row in rows} == {"1"}
    assert len({row["gate_hue"] for row in rows}) == 1  # the same for all points


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "holds no dataset.csv; pass the workdir of a finished run"),
        ("", "cannot read "),
        ("index,id\n0,a\n", "cannot read "),
        ("index,id\n0\n", "cannot read "),
        ('index,id\n0,"' + "x" * 200_000, "cannot read "),
    ],
)
def test_what_is_no_report_is_refused_in_a_line(content, expected, tmp_path):
    if content is not None:
        (tmp_path / "dataset.csv").write_text(content)
    with pytest.raises(ValueError, match=expected) as raised:
        autodo_jax.load_dataset_report(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("method", ["autodo", "autodo_shared", "baseline"])
def test_a_run_reports_what_it_has_learned(method, tmp_path):
    config = tiny_config(method)
    config.data.noise_kind, config.data.noise_ratio = "pair", 0.2
    ready, state = prepare(config)
    result = loop.run(ready, state, tmp_path).result
    found = autodo_jax.load_dataset_report(tmp_path)
    num_points = result["num_train"]
    assert found.index.tolist() == list(range(num_points))
    assert len(set(found.id)) == num_points and found.id[0].startswith("digits_")
    assert set(found.given_label) == set("0123456789")
    for values in (found.noise_score, found.label_confidence):
        assert values.min() >= 0 and values.max() <= 1 and values.std() > 0
    # Where the predicted class is the given one, the others have what is left.
    same = found.given_label == found.suggested_label
    assert same.any() and not same.all()
    np.testing.assert_allclose(
        found.noise_score[same], 1 - found.label_confidence[same], atol=1e-5
    )
    assert (found.noise_score[~same] >= found.label_confidence[~same] - 1e-5).all()
    with np.load(tmp_path / "hyperparams.npz") as tables:
        for a, name in enumerate(found.gate):
            logits = tables["gate"][:, a]
            np.testing.assert_allclose(
                found.gate[name],
                np.broadcast_to(scipy.special.expit(logits), num_points),
                rtol=1e-5,
            )
            largest = OPERATIONS[name].range * config.augment.magnitude / 10
            assert (found.magnitude[name] < largest).all()
        if "weight" in tables:
            expected = np.log1p(np.exp(tables["weight"])) / np.log(2)
            np.testing.assert_allclose(found.weight, expected, rtol=1e-5)
    learned = {"autodo": 6, "autodo_shared": 6, "baseline": 0}
    assert len(found.gate) == len(found.magnitude) == learned[method]


def test_parquet_holds_the_same_in_full_precision(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    expected = report()
    write(tmp_path, expected)
    with open(tmp_path / "dataset.parquet", "wb") as file:
        dataset_report.write_parquet(file, expected)
    found = parquet.read_table(tmp_path / "dataset.parquet").to_pydict()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "dataset.csv").read_text())))
    assert list(found) == list(rows[0])
    assert found["id"] == expected.id.tolist()
    assert found["weight"] == expected.weight.tolist()
    assert found["gate_hue"] == expected.gate["hue"].tolist()


def test_soft_labels_are_the_two_probabilities_scaled():
    found = report(
        confidence=np.array([0.9, 0.6, 0.7, 0.8]),
        noise_score=np.array([0.1, 0.8, 0.3, 0.2]),
    ).soft_labels(("<b>", "cat", "dog, small"))
    # Given cat, dog, dog, <b>; suggested cat, <b>, dog, <b>.
    expected = np.array([[0, 1, 0], [0.75, 0, 0.25], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="lacks the labels <b>, cat"):
        report().soft_labels(("dog, small",))
