"""Features from a file or a folder of arrays: three forms, and what is refused."""

import numpy as np
import pytest

from autodo_jax.config import default_config
from autodo_jax.data.sources import embeddings
from autodo_jax.errors import DataError

RNG = np.random.default_rng(0)


def good():
    """Six train, four validation and three test points of two classes."""
    arrays = {"class_names": np.array(["cat", "dog"])}
    for name, num_points in (("train", 6), ("validation", 4), ("test", 3)):
        arrays |= {
            f"{name}_features": RNG.normal(size=(num_points, 5)).astype(np.float16),
            f"{name}_labels": np.arange(num_points) % 2,
            f"{name}_ids": np.array([f"{name}/{i}.png" for i in range(num_points)]),
        }
    return arrays


def load(path, **fields):
    data = default_config().data
    data.data_dir = str(path)
    data.update(fields)
    return embeddings.load(data, seed=0)


def write_npz(path, arrays):
    np.savez(path / "features.npz", **arrays)
    return path / "features.npz"


def write_folder(path, arrays):
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def write_parquet(path, arrays):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "id": arrays[f"{name}_ids"][i],
            "label": arrays["class_names"][label],
            "split": name,
            "embedding": arrays[f"{name}_features"][i].astype(np.float32).tolist(),
        }
        for name in ("train", "validation", "test")
        for i, label in enumerate(arrays[f"{name}_labels"])
    ]
    file = path / "features.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("write", [write_npz, write_folder, write_parquet])
def test_each_form_gives_the_same_points(write, tmp_path):
    arrays = good()
    parts = load(write(tmp_path, arrays))
    for name, part in parts._asdict().items():
        np.testing.assert_array_equal(part.images, arrays[f"{name}_features"])
        np.testing.assert_array_equal(part.labels, arrays[f"{name}_labels"])
        assert part.ids.tolist() == arrays[f"{name}_ids"].tolist()
        assert part.class_names == ("cat", "dog") and part.has_features


def test_a_folder_stays_on_the_disk(tmp_path):
    assert isinstance(load(write_folder(tmp_path, good())).train.images, np.memmap)


def test_only_the_train_split_is_needed(tmp_path):
    arrays = {name: good()[name] for name in ("train_features", "train_labels")}
    train, validation, test = load(write_npz(tmp_path, arrays))
    assert validation is test is None
    assert train.ids[5] == "train_5" and train.class_names == ("0", "1")
    limited = load(tmp_path / "features.npz", max_train_points=4)
    assert sorted(limited.train.labels) == [0, 0, 1, 1]


def changed(**arrays):
    return {**good(), **arrays}


def without(*names):
    return {name: array for name, array in good().items() if name not in names}


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (without("train_labels"), "has no array train_labels"),
        (without("train_features"), "has no array train_features"),
        (without("test_labels"), "test_features, but no test_labels"),
        (without("test_features"), "has no array test_features"),
        (changed(tset_features=np.ones(3)), "tset_features, which nothing reads"),
        (changed(train_labels=np.ones(6)), "are float64, expected integers"),
        (changed(train_labels=np.arange(5) % 2), "shapes (6, 5) and (5,)"),
        (changed(train_features=np.ones(6)), "shapes (6,) and (6,)"),
        (changed(train_labels=np.arange(6) % 3), "is 2, expected 0..1"),
        (changed(class_names=np.array("cat")), "class_names of"),
        (changed(class_names=np.array([["cat", "dog"]])), "have shape (1, 2)"),
        (changed(train_ids=np.array("a")), "train_ids"),
        (changed(train_ids=np.array([["a"]] * 6)), "train_ids"),
        (changed(train_ids=np.array(["a"] * 5)), "train_ids"),
        (changed(test_labels=np.array([0, 1, -1])), "test_labels of"),
        (
            {**without("class_names"), "test_labels": np.array([0, 1, 9])},
            "is 9, but there are only 6 train points",
        ),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(arrays, expected, tmp_path):
    with pytest.raises(DataError) as error:
        load(write_npz(tmp_path, arrays))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.txt").write_text("features")
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "objects.npz", train_features=objects)
    for path, expected in (
        ("text.npz", "cannot read"),
        ("objects.npz", "cannot read"),
        ("text.txt", "is neither"),
        ("nothing.npz", "expected an .npz or .parquet file"),
    ):
        with pytest.raises(DataError, match=expected):
            load(tmp_path / path)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("split", ["tset"], "split 'tset'"),
        ("embedding", [[1.0, 2.0]], "different lengths"),
        ("id", None, "no column id"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(column, values, expected, tmp_path):
    file = write_parquet(tmp_path, good())
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file).to_pydict()
    if values is None:
        del table[column]
    else:
        table[column][:1] = values
    pyarrow.parquet.write_table(pyarrow.table(table), file)
    with pytest.raises(DataError, match=expected):
        load(file)
