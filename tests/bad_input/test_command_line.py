"""Flags and fields that cannot be used."""

import pytest

from tests.bad_input import refusal
from tests.test_main import DIGITS, TINY


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "pass --config=digits"),
        (["--config=configs/nope.py"], "no experiment file 'configs/nope"),
        (["--config=setup.cfg"], "setup.cfg is not an experiment file"),
        ([DIGITS + ":autodp"], "unknown method 'autodp'; use one of baseline"),
        ([DIGITS, "--config.method=autodp"], "unknown method 'autodp'; use one of"),
        ([DIGITS, "--epochs=1"], "Unknown command line flag 'epochs'"),
        ([DIGITS, "--num_processes=x"], "--num_processes=x"),
        ([DIGITS, "extra"], "unexpected argument 'extra'"),
        ([DIGITS, "--process_id=0"], "--coordinator=HOST:PORT"),
        (
            [
                DIGITS,
                "--coordinator=localhost:1",
                "--num_processes=2",
                "--process_id=2",
            ],
            "--process_id is 2, expected 0 to 1",
        ),
        ([DIGITS, "--config.hyper=3"], "--config.hyper=3"),
    ],
)
def test_commands(flags, expected, tmp_path, capfd):
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and expected in error


def test_a_workdir_that_cannot_be_made(tmp_path, capfd):
    (tmp_path / "file").touch()
    status, error = refusal([DIGITS], tmp_path / "file/x", capfd)
    assert status == 2 and f"cannot write to {tmp_path}/file/x" in error
    assert error.endswith("; pass another --workdir\n")


def test_an_experiment_with_a_field_that_does_not_exist(tmp_path, capfd):
    (tmp_path / "mine.py").write_text(
        "from configs import digits\n"
        "def get_config(method=''):\n"
        "    config = digits.get_config(method)\n"
        "    config.hyper.lr = 3\n"
        "    return config\n"
    )
    flags = [f"--config={tmp_path / 'mine.py'}"]
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and "unknown field config.hyper.lr" in error


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        # Names, types, ranges, choices, and how they go together.
        ("hyper.lr=1", "unknown field --config.hyper.lr; there are augment"),
        ("hyp.lr=1", "unknown field --config.hyp.lr; there are augment, batch_size"),
        ("epochs.x=1", "unknown field --config.epochs.x"),
        ("epochs=ten", "--config.epochs=ten"),
        ("epochs=1.5", "--config.epochs=1.5"),
        ("hyper.eps=x", "unknown field --config.hyper.eps"),
        ("hyper.smoothing=x", "--config.hyper.smoothing=x"),
        ("hyper.frozen=x", "--config.hyper.frozen=x"),
        ("epochs=-1", "config.epochs is -1, expected a number >= 1"),
        ("seed=-1", "config.seed is -1, expected an integer in [0, 2**32)"),
        ("batch_size=0", "config.batch_size is 0, expected a number >= 1"),
        ("task.learning_rate=nan", "is nan, expected a number > 0"),
        ("task.learning_rate=inf", "is inf, expected a number > 0"),
        ("task.momentum=1", "config.task.momentum is 1.0, expected a number in [0, 1)"),
        ("task.clip_norm=-1", "config.task.clip_norm is -1.0, expected a number >= 0"),
        ("hyper.max_update=-1", "config.hyper.max_update is -1.0"),
        ("hyper.smoothing=1", "expected a share in (0, 1)"),
        ("hyper.solver=lu", "expected one of neumann, conjugate_gradient, identity"),
        ("hyper.on_divergence=keep", "expected one of first_term, stop"),
        ("hyper.theta=body", "expected one of head, all"),
        ("hyper.start_epoch=2", "less than epochs=2; raise --config.epochs, or"),
        ("data.imbalance_ratio=0.5", "config.data.imbalance_ratio is 0.5"),
        ("data.noise_ratio=1.5", "expected a share in [0, 1]"),
        ("data.validation_size=1.5", "a share in (0, 1) or a number of points"),
        ("data.outer_set=all", "expected one of validation, test, train"),
        ("data.image_size=(8,)", "expected (height, width) in pixels"),
        ("data.std=(0.0,)", "config.data.std is (0.0,), expected numbers > 0"),
        ("data.mean=(0.0, 0.0)", "one number a channel"),
        ("augment.operations=('x',)", "expected distinct names of"),
        ("augment.operations=('hue',)", "for images without 3 channels"),
        ("augment.magnitude=0", "config.augment.magnitude is 0.0"),
        ("augment.num_ops=-1", "config.augment.num_ops is -1"),
        ("model.name=vgg", "config.model.name is 'vgg', expected one of"),
        ("checkpoint_keep=0", "config.checkpoint_keep is 0"),
        ("data.test_size=0.001", "the data cannot be split"),
        ("data.imbalance_ratio=1e6", "the train set has no points of class 5, 6, 7"),
    ],
)
def test_fields(field, expected, tmp_path, capfd):
    flags = [DIGITS, *TINY, f"--config.{field}"]
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and expected in error


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("batch_size=100000", "pass --config.batch_size=709 or less"),
        ("num_devices=3", "3 devices cannot share equally; pass --config.batch_size="),
        ("num_devices=9", "config.num_devices is 9, but there are 8 devices"),
        (
            "task.learning_rate=1e30",
            "grad_norm not finite in epoch 1, task step",
        ),
    ],
)
def test_fields_of_runs_that_cannot_go_on(field, expected, tmp_path, capfd):
    flags = [DIGITS, *TINY, f"--config.{field}"]
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 1 and expected in error


@pytest.mark.parametrize(
    "fields",
    [
        {"hyper.augment": "none", "augment.policy": "none", "hyper.weights": "False"},
        {"hyper.soft_labels": "False"},
    ],
)
def test_fields_of_another_method_than_the_run_is_called_by(fields, tmp_path, capfd):
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    status, error = refusal([DIGITS, *TINY, *flags], tmp_path / "run", capfd)
    assert status == 2 and "config.method is 'autodo', but the fields" in error
    assert error.endswith("; choose a method by --config=FILE:autodo\n")
