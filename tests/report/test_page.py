"""report.html and comparison.html, read as any parser of HTML reads them."""

import base64
import dataclasses
import functools
import html.parser
import io
import json
import os
import re

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from autodo_jax.errors import RunFilesError
from autodo_jax.report import __main__ as cli
from autodo_jax.report import figures, page, predictions
from autodo_jax.workdir import files, report_data
from tests.report.made_up import CLASSES, EPOCHS, write_run

SECTIONS = (
    "data", "suspects", "summary", "next", "classes", "confusion", "embedding",
    "weights", "augmentation", "curves", "solver", "configuration",
)  # fmt: skip


class Parser(html.parser.HTMLParser):
    """Collects tags, ids, texts by section, tables and addresses."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.links = [], [], []
        self.texts, self.figures = {}, {}
        self._section = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "section":
            self._section = given["id"]
        if tag == "figure":
            self.figures.setdefault(self._section, []).append(given["aria-label"])
        self.links += [given[name] for name in given if name in ("src", "xlink:href")]
        self.links += [given["href"]] if "href" in given and tag != "a" else []

    def handle_data(self, data):
        self.texts.setdefault(self._section, []).append(data.strip())

    def text(self, section):
        return " ".join(" ".join(self.texts[section]).split())


def parsed(folder):
    return Parser(page.write_page(folder))


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """The page of a run, drawn once for all that is asked of it."""

    @functools.cache
    def page_of(**given):
        return parsed(write_run(tmp_path_factory.mktemp("run") / "run", **given))

    return page_of


@pytest.fixture
def empty_figures(monkeypatch):
    """For pages that are asked for something else: figures take most of their time."""

    def save(figure, file, **_):
        file.write('<svg viewBox="0 0 9 9"></svg>')

    monkeypatch.setattr(Figure, "savefig", save)


def test_all_sections_of_a_finished_run(tmp_path):
    folder = write_run(tmp_path / "autodo-seed0")
    write_run(tmp_path / "autodo-frozen-seed0", frozen=True, test_error=33.25)
    write_run(tmp_path / "autodo-frozen-seed1", frozen=True, seed=1, test_error=99.5)
    write_run(tmp_path / "damaged").joinpath("result.json").write_text("")
    found = parsed(folder)
    assert [id for id in found.ids if id in SECTIONS] == list(SECTIONS)
    assert len(found.ids) == len(set(found.ids))
    summary = found.text("summary")
    assert "this run frozen control test error 12.50 % 33.25 %" in summary
    assert "AUROC of the noise score 0.875 0.875" in summary
    # Mean over the upper half of the classes: 20 and 30.
    assert "error of the rare classes 25.00 %" in summary
    assert found.figures["curves"] == ["loss", "error", "learning rates"]
    assert len(found.figures["solver"]) == 5
    assert "Solves that diverged: 4." in found.text("solver")
    # Every eighth of 40 points is predicted as class 0, its own in 2 cases of 5.
    assert "40 test points. Crosses mark the 0 " in found.text("embedding")
    assert len(found.figures["augmentation"]) == 2
    assert "10 of 60 train points are suspects" in found.text("suspects")
    assert "outer loop starts" in found.text("curves")
    assert found.text("classes").count("frozen control") == 1


def test_pages_hold_what_they_show_and_escape_names(tmp_path):
    found = parsed(write_run(tmp_path / "run", channels=3))
    assert set(found.tags).isdisjoint({"script", "b", "iframe", "object"})
    assert CLASSES[1] in found.text("suspects")
    assert "train/<b>59</b>.png" in found.text("suspects")
    outside = [
        link for link in found.links if not re.match(r"data:|#f\d+-", link or "#f0-")
    ]
    assert not outside
    shown = report_data.load_report_data(tmp_path / "run")
    images = [link for link in found.links if link.startswith("data:image/png")]
    decoded = [
        np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))))
        for link in images
    ]
    small = [image for image in decoded if image.shape == (12, 10, 3)]
    assert len(small) == 7 * 4
    np.testing.assert_array_equal(small[0], shown.suspect_images[0])
    np.testing.assert_array_equal(small[-1], shown.augmented_images[-1, -1])


@pytest.mark.usefixtures("empty_figures")
def test_what_to_do_next_fits_the_run(tmp_path):
    folder = write_run(tmp_path / "run")
    alone = parsed(folder).text("next")
    assert "clean_only or joined" in alone
    assert "autodo export-model WORKDIR" in alone and "autodo review" not in alone
    config = json.loads((folder / files.CONFIG).read_text())
    config["data"]["source"] = "folder"
    (folder / files.CONFIG).write_text(json.dumps(config))
    found = parsed(folder).text("next")
    assert "autodo review WORKDIR" in found and "autodo export WORKDIR --to" in found
    unfinished = parsed(write_run(tmp_path / "other", epochs=3))
    assert "not finished" in unfinished.text("next")


def test_the_data_come_with_what_is_surely_wrong_first(tmp_path):
    write_run(tmp_path / "run")
    summary = {
        "rows": [["images", "9 train"], ["left out", "2 <b>.heic"]],
        "warnings": ["the class 'emu' has few"],
        "certain_errors": ["a.png is 'x', b.png is 'y', with the same pixels"],
    }
    path = tmp_path / "run/data.json"
    path.write_text(json.dumps(summary))
    page.write_page(tmp_path / "run")
    text = (tmp_path / "run/report.html").read_text()
    found = [text.index(words) for words in ("a.png is", "emu&#39; has few", "9 train")]
    assert found == sorted(found) and "2 &lt;b&gt;.heic" in text
    order = [
        text.index(f'<section id="{name}"') for name in ("data", "suspects", "curves")
    ]
    assert order == sorted(order)
    for wrong in ({}, {**summary, "rows": [["a"]]}, {**summary, "warnings": [3]}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(RunFilesError, match=r"data\.json: .* (no|is) "):
            page.write_page(tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "section", "text"),
    [
        ({"method": "baseline"}, "solver", "No step has learned Lambda"),
        ({"method": "baseline"}, "weights", "learns no weights"),
        ({"method": "baseline"}, "augmentation", "learns no augmentation"),
        ({"method": "autodo", "frozen": True}, "solver", "No step has learned"),
        ({"frozen": True}, "weights", "all weights are 1"),
        ({"frozen": True}, "augmentation", "kept at its start"),
        ({}, "summary", "imbalanced 10 to 1; 10 % of the train labels are redrawn"),
        ({"noise_ratio": 0.0}, "summary", "no labels were changed"),
        ({"frozen": True}, "suspects", "each with draws of the augmentation."),
        ({"num_test": 0}, "confusion", "No test set."),
        ({"num_test": 0}, "summary", "test error -"),
        ({"phases": (("joined_epochs", 4),)}, "summary", "last 4 epochs the network"),
        ({"phases": (("plain_epochs", 2),)}, "summary", "last 2 epochs the learned"),
        ({"epochs": 3}, "summary", "epochs 3 of 6"),
        ({"epochs": 3}, "", "not finished: 3 of 6 epochs are done"),
        ({"epochs": 3}, "suspects", "has not finished yet"),
        ({"epochs": 1}, "curves", "loss"),
    ],
)
def test_what_a_run_has_not_is_said(page_of, given, section, text):
    found = page_of(**given)
    assert text in found.text(section)
    assert [id for id in found.ids if id in SECTIONS] == list(SECTIONS)
    unfinished = "This run has not finished: " in found.text("")
    assert unfinished == (given.get("epochs", EPOCHS) < EPOCHS)


def test_a_hundred_classes_are_cut_to_what_can_be_read(page_of):
    found = page_of(class_names=tuple(f"class {i}" for i in range(100)))
    assert "Only the 30 worst classes of 100 are shown." in found.text("classes")
    assert "class 99" in found.text("classes")


STRANGE = ("猫", "a\x07b", "x" * 300, r"$\frac$", "</text></svg><script>")


@pytest.mark.parametrize("name", STRANGE)
def test_class_names_of_any_letters(page_of, name):
    # Matplotlib's warnings of fonts and of figures too small are errors here.
    found = page_of(class_names=STRANGE)
    assert "script" not in found.tags
    assert name in found.text("suspects")


def replace_data(folder, **values):
    data = dataclasses.replace(report_data.load_report_data(folder), **values)
    with open(folder / files.REPORT_DATA, "wb") as file:
        report_data.write_npz(file, data)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (np.eye(40, 5), "40 test points"),
        (np.vstack([np.eye(39, 5), [[np.inf] * 5]]), "39 test points"),
        (np.ones((40, 5)), "all alike"),
        (np.arange(40.0)[:, None], "all alike"),
        (np.full((40, 5), np.nan), "too few"),
    ],
)
def test_inputs_of_the_head_that_cannot_be_drawn(tmp_path, features, text):
    folder = write_run(tmp_path / "run")
    replace_data(folder, features=features.astype(np.float16))
    shown = report_data.load_report_data(folder)
    assert text in predictions.embedding(shown).text


def test_no_images_of_suspects(tmp_path):
    folder = write_run(tmp_path / "run")
    shown = report_data.load_report_data(folder)
    names = ("suspect_index", "suspect_images", "augmented_images")
    replace_data(folder, **{name: getattr(shown, name)[:0] for name in names})
    found = parsed(folder)
    assert "img" not in found.tags and "Below" not in found.text("suspects")


def test_the_same_run_makes_the_same_page(tmp_path):
    folder = write_run(tmp_path / "run")
    first = page.write_page(folder).read_bytes()
    assert page.write_page(folder).read_bytes() == first


def test_a_confusion_matrix_counts_points():
    svg = figures.confusion(
        np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), ("a", "b")
    )
    texts = re.findall(r">([^<>\s][^<>]*)</text>", svg)
    # Row by row; an empty cell has no number.
    assert [text for text in texts if text.isdigit()] == ["2", "1", "2"]


def test_the_command_writes_pages_once_and_a_comparison(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / f"autodo-seed{seed}", seed=seed, test_error=10.0 + seed)
    write_run(tmp_path / "autodo-frozen-seed0", frozen=True)
    write_run(tmp_path / "halfway", epochs=3, seed=7)
    assert cli.main([str(tmp_path)]) == 0
    assert "10.5 ± 0.7" in capsys.readouterr().out
    pages = sorted(tmp_path.glob("*/report.html"))
    assert len(pages) == 4
    found = Parser(tmp_path / "comparison.html")
    assert "10.5 ± 0.7" in found.text("table")
    assert found.figures["curves-1"] == ["validation error in %", "test error in %"]
    assert "autodo (frozen)" in found.text("curves-1")
    before = [path.stat().st_mtime_ns for path in pages]
    assert cli.main([str(tmp_path), "--no-html"]) == cli.main([str(tmp_path)]) == 0
    assert [path.stat().st_mtime_ns for path in pages] == before
    # A control that comes later is shown.
    late = write_run(tmp_path / "autodo-frozen-seed1", seed=1, frozen=True)
    os.utime(late / "result.json", ns=(2 * before[0],) * 2)
    assert cli.main([str(tmp_path)]) == 0
    assert "frozen control" in Parser(tmp_path / "autodo-seed1/report.html").text(
        "summary"
    )


def test_runs_that_are_not_finished_get_pages_but_no_table(tmp_path, capsys):
    folder = write_run(tmp_path / "run", epochs=2)
    assert cli.main([str(folder)]) == 0
    assert capsys.readouterr().out == "no table, since no run is finished yet\n"
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "dataset.csv", "report.npz"])
def test_a_damaged_file_is_said_in_a_line(tmp_path, capsys, name):
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(b"{nothing")
    assert cli.main([str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"autodo_jax.report: cannot read {folder / name}: ")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("metrics.jsonl", lambda text: text.splitlines()[0], "val_error for some of"),
        ("metrics.jsonl", lambda text: text.replace("test_error", "x"), "test_error"),
        (
            "result.json",
            lambda text: text.replace("12.5", '"x"'),
            "test_error is 'x'",
        ),
        ("result.json", lambda text: text.replace("autodo", "zzz"), "unknown method"),
        ("dataset.csv", lambda text: "\n".join(text.splitlines()[:9]), "do not fit"),
        ("dataset.csv", lambda text: text.replace("cat", "dog"), "do not fit"),
    ],
)
@pytest.mark.usefixtures("empty_figures")
def test_files_that_do_not_fit_together_are_said_in_a_line(
    tmp_path, capsys, name, change, reason
):
    for seed in (0, 1):
        path = write_run(tmp_path / str(seed), seed=seed) / name
    path.write_text(change(path.read_text()))
    assert cli.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and str(path.parent) in line


def test_a_page_that_is_not_written_is_not_asked_for(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main([str(tmp_path), "--no-html", "--comparison=x.html"])
    assert raised.value.code == 2
    assert "--no-html writes none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.json", "{}", "or are of another version (KeyError: 'method')"),
        ("config.json", "[1]", "expected a JSON object"),
        ("result.json", '{"seed": 0}', "it has no dataset, method, "),
    ],
)
def test_files_of_another_version_are_said_in_a_line(
    tmp_path, capsys, name, text, reason
):
    folder = write_run(tmp_path / "run", epochs=3)
    (folder / name).write_text(text)
    assert cli.main([str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and str(folder) in line


@pytest.mark.usefixtures("empty_figures")
def test_metrics_of_another_program_are_no_run(tmp_path):
    write_run(tmp_path / "run", epochs=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").write_text("loss 3\n")
    assert cli.main([str(tmp_path)]) == 0
    assert not (tmp_path / "other" / files.REPORT).exists()
