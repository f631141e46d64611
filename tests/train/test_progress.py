"""Time left, against epochs whose seconds are known."""

import pytest

from autodo_jax.train.progress import EpochProgress, in_words


def record(epoch, seconds):
    errors = {"val_error": 1.0, "test_error": 2.0}
    return {"epoch": epoch, "train_loss": 0.5, "seconds": seconds, **errors}


@pytest.mark.parametrize(
    ("seconds", "start_epoch", "expected"),
    [
        ([30], None, 9 * 30),
        ([30, 4], None, 8 * 4),  # The first compiles.
        ([30, 4, 6], None, 7 * 5),
        ([30, 4], 5, 3 * 4 + 5 * 8),  # The outer loop is not known yet.
        ([30, 4, 4, 40], 3, 6 * 40),
        ([30, 4, 4, 40, 10], 3, 5 * 10),
        ([30, 10], 0, 8 * 10),
    ],
)
def test_the_time_left_has_the_outer_loop_in_it(seconds, start_epoch, expected, capsys):
    with EpochProgress(10, "lines", start_epoch=start_epoch) as progress:
        progress.start(0)
        for i, each in enumerate(seconds, 1):
            progress.update(record(i, each))
        assert progress.seconds_left(len(seconds)) == pytest.approx(expected)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f", {in_words(expected)} left")


def test_a_run_that_continues_knows_nothing_of_its_first_epochs(capsys):
    with EpochProgress(10, "lines", start_epoch=2) as progress:
        progress.start(6)
        progress.update(record(7, 60.0))
        assert progress.seconds_left(7) == 180
        progress.update(record(10, 60.0))
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("3 min left") and "left" not in out[1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 min"),
        (59, "1 min"),
        (61, "2 min"),
        (3600, "1 h 0 min"),
        (9001, "2 h 31 min"),
    ],
)
def test_durations_are_in_minutes(seconds, words):
    assert in_words(seconds) == words
