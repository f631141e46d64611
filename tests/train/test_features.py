"""Features of a frozen encoder: computed once, kept, and what a run makes of them."""

import json
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import autodo_jax
from autodo_jax import main, models, objective
from autodo_jax.config import default_config, is_solved, use_pretrained
from autodo_jax.data.dataset import Dataset
from autodo_jax.embed import __main__ as embed
from autodo_jax.models import pretrained, torch_weights
from autodo_jax.models.small_cnn import SmallCNN
from autodo_jax.predict import __main__ as predict
from autodo_jax.train import setup
from autodo_jax.train.features import Encoder
from autodo_jax.train.state import create_optimizers
from autodo_jax.workdir.feature_store import FeatureStore, digests
from tests.models import random_variables
from tests.models.test_pretrained import resnet_shapes, torch_arrays
from tests.train.test_resume import stop_after

PHOTOS = "--config=configs/photos.py"


@pytest.fixture(scope="module")
def encoder():
    """Of 8x8 images; what counts the images that it is asked for; its variables."""
    config = default_config()
    config.augment.crop_size = 6
    network = SmallCNN(3, (2,))
    variables = random_variables(network, 6, 6, 1)
    variables["params"].pop("head")
    losses = objective.create(config, models.FeatureHead(3, encoder=network))
    found = Encoder(config, losses, variables)
    compute, asked = found.features, []

    def features(images):
        asked.append(len(images))
        return compute(images)

    found.features = features  # type: ignore[method-assign]
    return found, asked, network, variables


def points(num_points=40):
    images = np.random.default_rng(0).integers(0, 256, (num_points, 8, 8, 1), np.uint8)
    images[5] = images[3]
    labels = np.arange(num_points, dtype=np.int32) % 3
    return Dataset(images, labels, labels.astype(str), ("a", "b", "c"))


def test_features_are_those_of_the_network_and_are_computed_once(encoder, tmp_path):
    found, asked, network, variables = encoder
    given = points()
    asked.clear()
    features = found.of(given, FeatureStore(tmp_path / "x"))
    cut = given.images[:, 1:7, 1:7].astype(np.float32) / 255
    expected = network.apply(variables, cut, train=False, method="features")
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    assert asked == [39]  # One is a copy.
    # Another order, another process, and images that are new.
    more = points(45)
    more = more._replace(images=more.images[::-1])
    again = found.of(more, FeatureStore(tmp_path / "x"))
    assert asked == [39, 5]
    np.testing.assert_array_equal(again[::-1][:40], features)


def test_what_is_damaged_is_computed_again(encoder, tmp_path):
    found, asked, *_ = encoder
    features = found.of(points(), FeatureStore(tmp_path))
    (path,) = tmp_path.glob("*.npz")
    content = bytearray(path.read_bytes())
    content[-600] ^= 1  # of the features, which come last
    for damaged in (bytes(content), content[:100], b""):
        path.write_bytes(damaged)
        asked.clear()
        np.testing.assert_array_equal(
            found.of(points(), FeatureStore(tmp_path)), features
        )
        assert asked == [39]


def test_images_are_known_by_their_pixels_alone():
    images = points().images
    keys = digests(images)
    assert keys.shape == (40, 32) and (keys[3] == keys[5]).all()
    assert len(np.unique(keys, axis=0)) == 39
    other = images.copy()
    other[7, 5, 2] ^= 1
    assert np.flatnonzero((digests(other) != keys).any(axis=1)).tolist() == [7]


@pytest.mark.parametrize(
    ("field", "value"),
    [("augment.crop_size", 4), ("data.mean", (0.5,)), ("model.dtype", "bfloat16")],
)
def test_another_preparation_has_other_features(encoder, field, value):
    found, _, network, variables = encoder
    config = default_config()
    config.augment.crop_size = 6
    config.update_from_flattened_dict({field: value})
    losses = objective.create(config, models.FeatureHead(3, encoder=network))
    assert Encoder(config, losses, variables).digest != found.digest


@pytest.mark.parametrize(
    ("method", "changed", "solved"),
    [
        ("", {}, True),
        ("joined", {}, True),
        ("autodo_a", {}, False),
        ("randaugment", {}, False),
        ("", {"augment.flip": True}, False),
        ("", {"augment.crop_padding": 4}, False),
        ("", {"augment.erase_probability": 0.5}, False),
        ("", {"model.frozen_encoder": False}, False),
        ("", {"model.weights": ""}, False),
    ],
)
def test_a_head_is_solved_where_its_features_are_constant(method, changed, solved):
    config = default_config()
    use_pretrained(config, method)
    config.update_from_flattened_dict(changed)
    assert is_solved(config) is solved
    if "model.weights" not in changed:  # Then it is refused.
        assert config.guard.folds == config.guard.patience == (5 if solved else 0)
        assert config.task.prior_variance == int(solved)
        assert config.task.joined_epochs == 0 or solved


def test_an_encoder_that_learns_has_a_rate_of_its_own():
    config = default_config()
    use_pretrained(config, "baseline")
    config.model.frozen_encoder = False
    config.task.learning_rate, config.task.encoder_learning_rate = 0.1, 0.002
    config.task.weight_decay = 0.0
    params = {"stem": {"kernel": np.ones(3)}, "head": {"kernel": np.ones(3)}}
    optimizer = create_optimizers(config, 10).task
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    ratio = updates["stem"]["kernel"] / updates["head"]["kernel"]
    np.testing.assert_allclose(ratio, 0.02, rtol=1e-6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    shapes = resnet_shapes(18, 5) | {"conv1.weight": (64, 3, 3, 3)}  # small stem
    safetensors.numpy.save_file(torch_arrays(shapes), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Bright and dark images of noise, two of the 24 in the folder of the other."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6), ("test", 9)):
        for label, name in enumerate(("bright", "dark")):
            for i in range(count):
                level = 120 * (label == 0) + 40
                noise = rng.integers(0, 90, (9, 10, 3))
                folder = name
                if part == "train" and i == 0:
                    folder = "dark" if name == "bright" else "bright"
                path = root / part / folder / f"{name}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((level + noise).astype(np.uint8)).save(path)
    return root


def flags(photos, weights, *more):
    return [
        *(PHOTOS, f"--config.data.data_dir={photos}", "--config.epochs=2"),
        *(f"--config.model.weights={weights}", "--config.model.name=resnet"),
        *("--config.model.stem=small", "--config.model.activation=relu"),
        *("--config.data.image_size=(8, 8)", "--config.guard.folds=2", *more),
    ]


@pytest.fixture(scope="module")
def finished(photos, weights, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "first"
    given = flags(photos, weights)
    assert main.main(["main", *given, f"--workdir={workdir}"]) == 0
    return workdir


def learned_weights(workdir):
    with np.load(workdir / "hyperparams.npz") as tables:
        return tables["weight"]


@pytest.mark.slow
def test_a_run_does_all_that_one_on_a_folder_does(finished, photos, weights, capsys):
    result = json.loads((finished / "result.json").read_text())
    assert result["test_error"] == 0 and result["image_shape"] == [8, 8, 3]
    report = autodo_jax.load_run(finished).report
    worst = report.id[np.argsort(-report.noise_score)[:2]]
    assert {*worst} == {"train/dark/bright0.png", "train/bright/dark0.png"}
    with np.load(finished / "report.npz") as shown:
        assert shown["suspect_images"].shape == (24, 8, 8, 3)
        assert shown["features"].shape[0] == 18
    assert "bright0.png" in (finished / "report.html").read_text()
    output = finished.parent / "predicted.csv"
    assert predict.main([str(finished), f"{photos}/test", f"--output={output}"]) == 0
    lines = output.read_text().splitlines()[1:]
    assert len(lines) == 18
    for line in lines:
        name, label, *_ = line.split(",")
        assert name.startswith(label)


@pytest.mark.slow
def test_another_run_takes_the_features_that_are_kept(
    finished, photos, weights, monkeypatch
):
    monkeypatch.setattr(Encoder, "features", None)
    workdir = finished.parent / "second"
    given = flags(photos, weights, "--config.seed=1")
    assert main.main(["main", *given, f"--workdir={workdir}"]) == 0
    streamed = finished.parent / "streamed"
    given = flags(photos, weights, "--config.data.stream=True")
    assert main.main(["main", *given, f"--workdir={streamed}"]) == 0
    results = [
        json.loads((path / "result.json").read_text()) for path in (finished, streamed)
    ]
    assert results[0]["test_error"] == results[1]["test_error"]
    one, other = map(learned_weights, (finished, streamed))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_features_in_a_file_are_those_of_the_run(finished, photos, weights, tmp_path):
    target = tmp_path / "features.npz"
    given = [flag for flag in flags(photos, weights) if flag != PHOTOS]
    given.remove(f"--config.data.data_dir={photos}")
    assert embed.main([str(photos), f"--to={target}", *given]) == 0
    with np.load(target) as arrays:
        assert arrays["train_features"].shape == (24, 512)
        assert arrays["class_names"].tolist() == ["bright", "dark"]
        ids = arrays["test_ids"].tolist()
        assert ids[0] == "test/bright/bright0.png" and len(ids) == 18
        images = np.stack([np.asarray(Image.open(photos / name)) for name in ids])
    assert images.shape == (18, 9, 10, 3)
    workdir = tmp_path / "run"
    command = [
        *("main", "--config=configs/embeddings.py", "--config.epochs=2"),
        *(f"--config.data.data_dir={target}", "--config.guard.folds=2"),
    ]
    assert main.main([*command, f"--workdir={workdir}"]) == 0
    one, other = map(learned_weights, (finished, workdir))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert embed.main([str(photos), f"--to={target}", *given]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_an_encoder_in_steps_stands_still_or_learns(photos, weights, frozen):
    config = default_config()
    use_pretrained(config, "autodo_a")
    config.update_from_flattened_dict(
        {
            "augment.policy": "none",
            "batch_size": 4,
            "data.source": "folder",
            "data.data_dir": str(photos),
            "data.image_size": (8, 8),
            "model.name": "resnet",
            "model.stem": "small",
            "model.activation": "relu",
            "model.weights": str(weights),
            "model.frozen_encoder": frozen,
        }
    )
    ready, state = setup.prepare(config)
    start = pretrained.load(config.model, models._network(config.model, 2, None))
    before = jax.tree.map(np.array, (state.params["head"]["kernel"], state.tables))
    for phase in ("task", "hyper"):
        (batches, *_) = ready.feed.batches(phase, 0)
        key = ready.task_key if phase == "task" else ready.hyper_key
        state, _ = getattr(ready.steps, phase)(state, *batches, key)
    after = state.params["head"]["kernel"], state.tables
    for first, last in zip(
        jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    ):
        assert (first != np.asarray(last)).any()
    if frozen:
        assert state.params.keys() == {"head"}
        learned = state.batch_stats["encoder"]["params"]
    else:
        learned = state.params
    kernel = "blocks_0", "Conv_0", "kernel"
    for name in kernel:
        learned, start = learned[name], start.get("params", start)[name]
    assert (np.asarray(learned) == start).all() == frozen


@pytest.mark.slow
def test_a_run_that_was_stopped_continues(
    finished, photos, weights, tmp_path, monkeypatch
):
    given = flags(photos, weights, f"--workdir={tmp_path / 'run'}")
    stop_after(2, monkeypatch)
    assert main.main(["main", *given]) == 128 + signal.SIGTERM
    assert not (tmp_path / "run/result.json").exists()
    assert main.main(["main", *given]) == 0
    one, other = map(learned_weights, (finished, tmp_path / "run"))
    np.testing.assert_array_equal(one, other)
    arrays = safetensors.numpy.load_file(weights)
    arrays["conv1.weight"] *= 2
    (tmp_path / "run/result.json").unlink()
    # Other weights under the same name are other data.
    monkeypatch.setattr(torch_weights, "read_safetensors", lambda path: arrays)
    assert main.main(["main", *given]) == 1
