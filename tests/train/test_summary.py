"""What a finished run leaves for its report and for TensorBoard."""

import json

import jax
import numpy as np
import PIL.Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import autodo_jax
from autodo_jax.errors import WriteError
from autodo_jax.train import loop, summary, tensorboard
from autodo_jax.workdir import report_data
from tests.train.prepared import prepare, tiny_config


@pytest.fixture(scope="module", params=["autodo", "autodo_shared", "baseline"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    ready, state = prepare(tiny_config(request.param))
    return folder, loop.run(ready, state, folder)


def test_the_features_are_what_the_head_classifies(finished):
    folder, run = finished
    shown = report_data.load_report_data(folder)
    np.testing.assert_array_equal(shown.feature_index, np.arange(450))
    head = jax.device_get(run.state.params["head"])
    logits = shown.features.astype(np.float32) @ head["kernel"] + head["bias"]
    same = np.argmax(logits, axis=1) == shown.test_predictions
    assert same.mean() > 0.98  # Features are kept in half precision.
    test = run.setup.data.splits.test
    np.testing.assert_array_equal(shown.test_labels, test.labels)
    wrong = shown.test_labels != shown.test_predictions
    assert 100 * wrong.mean() == run.result["test_error"]


def test_the_suspects_are_the_points_with_the_highest_scores(finished):
    folder, run = finished
    shown = report_data.load_report_data(folder)
    report = autodo_jax.load_dataset_report(folder)
    assert len(shown.suspect_index) == 32
    # Suspects first, the worst of them and of the others first.
    rank = sorted(zip(report.is_suspect, report.noise_score, strict=True))[-32:][::-1]
    found = report.is_suspect[shown.suspect_index]
    np.testing.assert_array_equal(found, [suspect for suspect, _ in rank])
    assert [score for _, score in rank] == pytest.approx(
        report.noise_score[shown.suspect_index]
    )
    images = run.setup.data.splits.train.images
    np.testing.assert_array_equal(shown.suspect_images, images[shown.suspect_index])
    draws = 0 if run.setup.config.method == "baseline" else 3
    assert shown.augmented_images.shape == (32, draws, 8, 8, 1)


def test_draws_follow_each_points_own_gates():
    """A gate that is shut leaves the image as it is; an open one turns it."""
    config = tiny_config("autodo")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    gate = np.array([[-50.0] * 6, [50.0] + [-50.0] * 5], np.float32)
    magnitude = np.full((2, 6), 5.0, np.float32)
    draws = summary.augmented_images(config, images, gate, magnitude, num_draws=5)
    assert draws.shape == (2, 5, 8, 8, 1) and draws.dtype == np.uint8
    np.testing.assert_array_equal(draws[0], np.broadcast_to(images[0], draws[0].shape))
    assert (draws[1] != images[1]).any(axis=(1, 2, 3)).all()
    assert len(np.unique(draws[1].reshape(5, -1), axis=0)) == 5


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_shown_small(channels):
    y, x = np.mgrid[:300, :200]
    images = np.stack([x, y * 0.8, x * 0 + 9], axis=-1)[None, ..., :channels]
    small = summary.thumbnails(images.astype(np.uint8))
    assert small.shape == (1, 96, 64, channels)
    for c in range(channels):
        channel = PIL.Image.fromarray(images[0, ..., c].astype(np.uint8))
        np.testing.assert_array_equal(small[0, ..., c], channel.resize((64, 96)))


def test_tensorboard_reads_metrics_suspects_and_weights(finished):
    folder, _ = finished
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for name in set(records[-1]) - {"epoch"}:
        expected = {r["epoch"]: r[name] for r in records if name in r}
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx(expected, rel=1e-6)
    assert set(events.Tags()["histograms"]) == {
        "weight",
        "noise_score",
        "label_confidence",
    }
    assert len(events.Tags()["images"]) == 32
    (first,) = events.Images(sorted(events.Tags()["images"])[0])
    assert (first.width, first.height) == (8, 8)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_a_run_that_goes_on_writes_one_file_with_all_epochs(tmp_path):
    record = {"epoch": 1, "train_loss": 1.0, "test_error": float("nan")}
    with tensorboard.TensorBoard(tmp_path, []) as board:
        board.add_epoch(record)
    with tensorboard.TensorBoard(tmp_path, [record]) as board:
        board.add_epoch(record | {"epoch": 2})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]
    assert events.Tags()["scalars"] == ["train_loss"]


def test_events_that_cannot_be_written_are_said_in_a_line(tmp_path):
    with pytest.raises(WriteError, match="cannot write TensorBoard's events"):
        tensorboard.TensorBoard(tmp_path / "absent", [])
