"""load_run: what a finished run found, in another process and another place."""

import json
import pickle
import shutil
import subprocess
import sys
from typing import Any

import flax.linen as nn
import numpy as np
import pytest

import autodo_jax
from autodo_jax import errors
from tests.test_api import Perceptron
from tests.train.prepared import prepare, run, tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run, moved once it was finished, and its test points."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config("autodo_s")
    config.save_embeddings = True
    run(config, folder / "before")
    (folder / "before").rename(folder / "after")
    return folder / "after", prepare(config)[0].data.splits.test


def test_probabilities_and_embeddings_are_those_of_the_train_points(finished):
    workdir, _ = finished
    found = autodo_jax.load_run(workdir)
    train = prepare(tiny_config("autodo_s"))[0].data.splits.train
    assert train.ids.tolist() == found.report.id.tolist()
    probability = np.load(workdir / "probabilities.npy")
    assert probability.shape == (len(train.ids), 10) and probability.dtype == np.float32
    np.testing.assert_allclose(
        probability, found.predict(train.images), rtol=1e-4, atol=1e-6
    )
    rows = np.arange(len(train.ids))
    np.testing.assert_allclose(
        found.report.noise_score, 1 - probability[rows, train.labels], atol=1e-5
    )
    np.testing.assert_allclose(
        found.report.label_confidence, probability.max(axis=1), atol=1e-5
    )
    suggested = np.array(found.class_names)[probability.argmax(axis=1)]
    assert suggested.tolist() == found.report.suggested_label.tolist()
    head = found.variables["params"]["head"]
    logits: Any = np.load(workdir / "embeddings.npy") @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(nn.softmax(logits), probability, rtol=1e-3, atol=1e-6)


def error_of(probability, labels):
    return 100 * np.mean(probability.argmax(axis=1) != labels)


def test_a_moved_run_makes_its_test_error(finished):
    workdir, test = finished
    found = autodo_jax.load_run(workdir)
    probability = found.predict(test.images)
    assert error_of(probability, test.labels) == found.result["test_error"]
    # By Flax alone, of what it returns.
    normalized = (test.images[:4] / np.float32(255) - 0.305) / 0.376
    logits: Any = found.model.apply(found.variables, normalized, train=False)
    np.testing.assert_allclose(
        nn.softmax(logits), probability[:4], rtol=1e-4, atol=1e-6
    )
    assert found.class_names == tuple("0123456789")
    result = json.loads((workdir / "result.json").read_text())
    assert found.result == result and found.report.index[-1] + 1 == result["num_train"]
    # The errors of the classes are by their names, weighted they are that of all.
    counts = np.bincount(test.labels)
    errors_ = [result["class_error"][str(label)] for label in range(10)]
    assert np.average(errors_, weights=counts) == pytest.approx(result["test_error"])


@pytest.mark.slow
def test_it_can_be_pickled_for_a_process_that_imports_nothing_before(
    finished, tmp_path
):
    workdir, test = finished
    found = autodo_jax.load_run(workdir)
    expected = found.predict(test.images[:7])  # compiles something, too
    (tmp_path / "found").write_bytes(pickle.dumps(found))
    np.save(tmp_path / "images.npy", test.images[:7])
    program = (
        "import pickle, numpy as np; found = pickle.load(open('found', 'rb'));"
        "np.save('out.npy', found.predict(np.load('images.npy')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4)


def own(path):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(40, 8, 8)), np.arange(40) % 10
    config = tiny_config("baseline", epochs=1)
    config.data.imbalance_ratio = 1.0
    return points[0], autodo_jax.optimize_dataset(
        points,
        (1 - points[0], points[1]),
        model=Perceptron(),
        config=config,
        workdir=path / "own",
        progress=False,
    )


@pytest.mark.slow
def test_a_network_of_your_own_is_passed_again_or_refused(tmp_path):
    images, found = own(tmp_path)
    again = autodo_jax.load_run(tmp_path / "own", model=Perceptron())
    np.testing.assert_array_equal(again.predict(images), found.predict(images))
    both = pickle.loads(pickle.dumps((again, found)))
    np.testing.assert_array_equal(both[0].predict(images), both[1].predict(images))
    for model, expected in (
        (None, r"with a network of your own, Perceptron \w+, which only"),
        (Perceptron(units=17), r"`model` is Perceptron \w+, but .* was trained with P"),
        (nn.Dense(10), "`model` has no method features"),
    ):
        with pytest.raises(errors.ModelError, match=expected) as raised:
            autodo_jax.load_run(tmp_path / "own", model=model)
        assert "\n" not in str(raised.value)


def without_class_error(workdir):
    result = json.loads((workdir / "result.json").read_text())
    result["class_error"].pop("9")
    (workdir / "result.json").write_text(json.dumps(result))


def with_image_shape(shape):
    def change(workdir):
        result = json.loads((workdir / "result.json").read_text())
        result["image_shape"] = shape
        (workdir / "result.json").write_text(json.dumps(result))

    return change


def damaged(workdir):
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    file = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: (x / "result.json").unlink(), "holds no result.json; pass the"),
        (lambda x: shutil.rmtree(x / "checkpoints"), "no saved state of the network"),
        (lambda x: (x / "dataset.csv").unlink(), "holds no dataset.csv"),
        (lambda x: (x / "config.json").write_text("{"), "cannot read .*config.json"),
        (damaged, r"checkpoint .* is damaged \(state/.* is not what was saved\)"),
        (
            without_class_error,
            r"not that of its config.json and result.json: .*head",
        ),
        (with_image_shape([16, 16, 1]), r"is not that of its .*head"),
        (with_image_shape([8, 8, 10**30]), "a number has 31 digits, expected 64"),
        (with_image_shape("8x8"), "image_shape is '8x8', expected a list"),
    ],
)
def test_what_cannot_be_loaded_is_refused(finished, tmp_path, change, expected):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    change(workdir)
    with pytest.raises(errors.RunFilesError, match=expected) as raised:
        autodo_jax.load_run(workdir)
    assert "\n" not in str(raised.value)


def test_a_run_on_its_own_network_takes_no_other(finished):
    with pytest.raises(errors.ModelError, match="not with a `model`; leave it out"):
        autodo_jax.load_run(finished[0], model=Perceptron())
