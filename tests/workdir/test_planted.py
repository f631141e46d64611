"""Links that were planted in a workdir lead no writer to the files of others."""

import os
import shutil

import numpy as np
import pytest

from autodo_jax import command_line, main
from autodo_jax.errors import WorkdirError, WriteError, for_command_line
from autodo_jax.report import comparison, page
from autodo_jax.review.decisions import Decisions
from autodo_jax.train import loop
from autodo_jax.workdir import files, folder, run
from configs import digits
from tests.report import made_up
from tests.test_main import DIGITS, ROOT, TINY
from tests.train import prepared

EVENT = "events.out.tfevents.1.planted"
NAMES = [
    EVENT if file is files.EVENTS else file.name
    for file in files.ALL
    if file not in (files.CHECKPOINTS, files.LOCK)
]


class Planted:
    """Links at the names of all files, and where parts of them used to be."""

    def __init__(self, workdir, precious, names):
        self.workdir, self.precious = workdir, precious
        workdir.mkdir(exist_ok=True)
        precious.mkdir(exist_ok=True)
        for name in [*names, *(f"{name}.tmp" for name in names)]:
            target = precious / name
            target.write_text("precious")
            (workdir / name).unlink(missing_ok=True)
            (workdir / name).symlink_to(target)

    def check(self, *written):
        for target in self.precious.iterdir():
            assert target.read_text() == "precious", target
        for name in written:
            path = self.workdir / name
            assert path.is_file() and not path.is_symlink(), name


@pytest.mark.slow
def test_a_run_its_report_and_its_review_write_through_no_link(tmp_path):
    config = prepared.tiny_config("baseline", epochs=1)
    config.save_embeddings = True
    config.profile = str(tmp_path / "profile")
    names = [name for name in NAMES if name != "config.json"]
    planted = Planted(tmp_path / "run", tmp_path / "precious", names)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/plugins").symlink_to(tmp_path / "precious")
    before = {path.name for path in (tmp_path / "precious").iterdir()}
    ready, state = prepared.prepare(config)
    with folder.opened(planted.workdir, config, overwrite=True):
        loop.run(ready, state, planted.workdir)
    page.write_page(planted.workdir)
    Decisions(tmp_path / "run/other.csv", {"a": "b"}).decide("a", "keep")
    planted.check(
        *("config.json", "metrics.jsonl", "data.json", "result.json", "dataset.csv"),
        *("hyperparams.npz", "probabilities.npy", "embeddings.npy", "report.npz"),
        "report.html",
    )
    assert {path.name for path in (tmp_path / "precious").iterdir()} == before
    (events,) = planted.workdir.glob(files.EVENTS.name)
    assert events.name != EVENT and not events.is_symlink()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["", ".tmp"])
def test_a_file_is_written_beside_what_a_link_leads_to(name, ending, tmp_path):
    planted = Planted(tmp_path / "run", tmp_path / "precious", [name])
    files.write_text(planted.workdir / (name + ending), "new")
    planted.check(name + ending)


def test_a_page_that_compares_and_a_review_follow_no_link(tmp_path):
    workdir = made_up.write_run(tmp_path / "runs/run")
    names = ["comparison.html", "review.csv"]
    planted = Planted(tmp_path / "runs", tmp_path / "precious", names)
    page_path = tmp_path / "runs/comparison.html"
    comparison.write_comparison([run.read(workdir)], page_path)
    planted.check("comparison.html")


def test_metrics_that_became_a_link_end_the_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    planted = Planted(tmp_path, tmp_path / "precious", ["metrics.jsonl"])
    with pytest.raises(WriteError, match=r"cannot write .*metrics\.jsonl: Too many"):
        files.append_text(path, "{}\n")
    planted.check()


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_what_others_write_is_refused_where_it_is_a_link(name, tmp_path):
    workdir, target = tmp_path / "run", tmp_path / "target"
    workdir.mkdir()
    target.mkdir() if name == "checkpoints" else target.write_text("precious")
    (workdir / name).symlink_to(target)
    with (
        pytest.raises(WorkdirError, match="is a link, and nothing is written through"),
        folder.opened(workdir, digits.get_config()),
    ):
        pass
    assert target.is_dir() or target.read_text() == "precious"
    if name == "checkpoints":
        (target / "7").mkdir()
        with folder.opened(workdir, digits.get_config(), overwrite=True):
            assert not (workdir / name).exists()
        assert (target / "7").is_dir()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("run\udcff", r"run\udcff"),
        ("\udc80", r"/\udc80"),
        ("runs\udce9/run", r"runs\udce9/run"),
        ("\udced\udca0\udc80", r"\udced\udca0\udc80"),
        ("\x1b[2J\n\udcff", r"\x1b[2J\n\udcff"),
    ],
)
def test_a_path_that_is_not_utf8_is_refused_at_the_start(name, shown, tmp_path):
    workdir = tmp_path / name
    with (
        pytest.raises(WorkdirError) as error,
        folder.opened(workdir, digits.get_config()),
    ):
        pass
    line = for_command_line(error.value)
    assert f"{shown} is not UTF-8; rename it" in line and line.isprintable()
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was stopped before its report, and its flags but for the workdir."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        workdir = tmp_path_factory.mktemp("finished")
        flags = [f"{DIGITS}:baseline", *TINY]
        config = command_line.load_config(command_line.parse(["main", *flags]))
        ready, state = prepared.prepare(config)
        loop.run(ready, state, workdir)
        yield workdir, flags


def with_part(path):
    path.with_name(f"{path.name}.{'0' * 32}.tmp").write_text("<html>")


def with_older(path):
    path.write_text("of a run before it")
    os.utime(path, (0, 0))


REPORTS = {
    "none": lambda path: None,
    "a part of one": with_part,
    "an older one": with_older,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to an older one": lambda path: path.symlink_to("config.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPORTS)
def test_a_finished_run_gets_the_report_that_it_lacks(
    kind, finished, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(ROOT)
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    path = workdir / "report.html"
    REPORTS[kind](path)
    flags = [*finished[1], f"--workdir={workdir}"]
    assert main.main(["main", *flags]) == 0
    assert "is finished" in capfd.readouterr().out
    assert path.is_file() and not path.is_symlink() and path.stat().st_size > 10_000
    assert not [*workdir.glob("*.tmp")]
    written = path.stat().st_mtime_ns
    assert main.main(["main", *flags]) == 0
    assert path.stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.npz", "metrics.jsonl", "dataset.csv"])
def test_a_report_that_cannot_be_written_is_no_success(
    name, finished, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(ROOT)
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / name).write_bytes(np.random.default_rng(0).bytes(100))
    flags = [*finished[1], f"--workdir={workdir}"]
    assert main.main(["main", *flags]) == 1
    error = capfd.readouterr().err
    assert error.startswith("autodo_jax: no report.html: cannot read ")
    assert error.count("\n") == 1
