"""Features that cannot be used, and what they do not have."""

import numpy as np
import pytest

from tests.bad_input import refusal

CONFIG = "--config=configs/embeddings.py"


def arrays(**changed):
    rng = np.random.default_rng(0)
    given: dict[str, np.ndarray] = {}
    for name, num_points in (("train", 20), ("validation", 8), ("test", 6)):
        given[f"{name}_features"] = rng.normal(size=(num_points, 4))
        given[f"{name}_labels"] = np.arange(num_points) % 2
    return {**given, **changed}


def written(path, **changed):
    np.savez(path / "features.npz", **arrays(**changed))
    return f"--config.data.data_dir={path / 'features.npz'}"


def with_nan():
    features = arrays()["train_features"]
    features[3, 1] = np.nan
    return features


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"train_features": with_nan()}, "of point train_3 are not finite"),
        ({"train_features": np.ones((20, 4), int)}, "train features are int64"),
        ({"test_features": np.ones((6, 3))}, "(6, 3), expected [N, 4]"),
        ({"train_labels": np.zeros(20, int)}, "no points of class 1"),
        ({"train_ids": np.array(["a"] * 20)}, "20 train points have the id a"),
        (
            {"validation_features": arrays()["train_features"][:8]},
            "8 of 8 validation",
        ),
    ],
)
def test_features(changed, expected, tmp_path, capfd):
    flags = [CONFIG, written(tmp_path, **changed)]
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and expected in error


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([CONFIG], "config.data.data_dir is ''"),
        ([CONFIG + ":randaugment"], "use autodo, autodo_s or autodo_w"),
        ([CONFIG, "--config.model.name=small_cnn"], "one of linear, hidden_layer"),
        ([CONFIG, "--config.hyper.symmetric_kl=True"], "hyper.symmetric_kl is True"),
        ([CONFIG, "--config.guard.folds=1"], "0, or a number >= 2"),
        ([CONFIG, "--config.num_devices=2"], "on one device"),
        (["--config=configs/digits.py", "--config.model.name=linear"], "is solved"),
    ],
)
def test_fields(flags, expected, tmp_path, capfd):
    needs_data = CONFIG in flags and "data_dir" not in expected
    given = [*flags, written(tmp_path)] if needs_data else flags
    status, error = refusal(given, tmp_path / "run", capfd)
    assert status in (1, 2) and expected in error
