"""A review in a real browser: keys and clicks, killed in between, and what comes of it.

AUTODO_SCREENSHOTS=DIR keeps what was seen.
"""

import collections
import csv
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from autodo_jax import export, main
from autodo_jax.data.sources import folder
from autodo_jax.workdir import dataset_report
from tests.bad_input import folder_flags, save
from tests.data.sources.test_folder import fields
from tests.test_main import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
    pytest.mark.slow,
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MARKUP = "<b>dog"
NUM_SUSPECTS = 200
TINY = (
    "--config.data.image_size=(8, 8)",
    "--config.augment.crop_size=0",
    "--config.model.name=small_cnn",
    "--config.model.widths=(4,)",
    "--config.num_devices=1",
    "--config.epochs=1",
    "--config.hyper.frozen=True",
)
IDS = [f"train/{name}/{i:03}.png" for name in ("cat", MARKUP) for i in range(110)]


@pytest.fixture
def workdir(tmp_path):
    """A finished run with 200 suspects, the first ones with the largest scores."""
    root = tmp_path / "images"
    for i, name in enumerate(IDS):
        save(root / name, i)
    for i, name in enumerate(("cat", MARKUP)):
        for part in ("val", "test"):
            save(root / part / name / "0.png", 1000 + i + 10 * (part == "val"))
    workdir = tmp_path / "run"
    workdir.mkdir()
    data = {"source": "folder", "data_dir": str(root)}
    (workdir / "config.json").write_text(json.dumps({"data": data}))
    label = np.array([0] * 110 + [1] * 110)
    is_suspect = np.arange(220) < NUM_SUSPECTS
    report = dataset_report.create(
        ids=np.array(IDS),
        labels=label,
        class_names=("cat", MARKUP),
        suggested=np.where(is_suspect, 1 - label, label),
        confidence=np.ones(220),
        noise_score=np.where(is_suspect, 0.99 - np.arange(220) / 1000, 0.1),
        weight=np.ones(1),
        gate={},
        magnitude={},
    )
    with open(workdir / "dataset.csv", "wb") as file:
        dataset_report.write_csv(file, report)
    return workdir


def started(workdir):
    """A review in another process, and its address."""
    command = [sys.executable, "-m", "autodo_jax.review", str(workdir), "--no_browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("200 images to review: http://127.0.0.1:")
    return process, line.split()[-1]


def rows(workdir):
    path = workdir / "review.csv"
    text = path.read_text() if path.exists() else ""
    return list(csv.DictReader(io.StringIO(text)))


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def opened(browser, url, width=1280):
    """The page, and all addresses that it has asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    page.wait_for_selector("article.current")
    return page, asked, said


def keep_screenshot(page, name):
    if "AUTODO_SCREENSHOTS" in os.environ:
        page.screenshot(path=pathlib.Path(os.environ["AUTODO_SCREENSHOTS"], name))


def test_two_hundred_suspects_are_reviewed_and_nothing_is_lost(
    workdir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        asked, said = review_twice(browser, workdir)
        browser.close()
    assert said == [] and asked == {"127.0.0.1"}
    check_decisions(workdir, tmp_path)
    corrections = f"--config.data.corrections={workdir}/review.csv"
    again = tmp_path / "again"
    flags = folder_flags(tmp_path / "images", corrections, *TINY, f"--workdir={again}")
    assert main.main(["main", *flags]) == 0
    decided = {row["id"]: row for row in rows(workdir)}
    counts = collections.Counter(row["decision"] for row in decided.values())
    said = f"{counts['relabel']} relabelled, {counts['drop']} dropped"
    assert said in capsys.readouterr().out
    learned = dataset_report.load_dataset_report(again)
    label_of = dict(zip(learned.id, learned.given_label, strict=True))
    assert len(label_of) == len(IDS) - counts["drop"]
    for name, row in decided.items():
        if row["decision"] == "relabel":
            assert label_of[name] == row["new_label"]


def review_twice(browser, workdir):
    """Reviews, is killed, and resumes; the hosts asked for, and what was complained."""
    process, url = started(workdir)
    page, asked, said = opened(browser, url)
    for key in "kdskku":  # The fifth is taken back.
        page.keyboard.press(key)
    wait_for(lambda: len(rows(workdir)) == 4)
    wait_for(lambda: page.locator(".decided").count() == 4)
    cards = page.locator("article")
    assert cards.count() == NUM_SUSPECTS
    # Markup of a class stays text.
    assert f"given cat, suggested {MARKUP}" in cards.nth(4).inner_text()
    assert page.locator("article b").count() == 0
    cards.nth(8).get_by_role("combobox").select_option(label=MARKUP)
    cards.nth(9).get_by_role("button", name="drop").click()
    wait_for(lambda: len(rows(workdir)) == 6)
    for _ in range(50):
        page.keyboard.press("s")
    wait_for(lambda: len(rows(workdir)) >= 20)
    complaints = list(said)
    process.send_signal(signal.SIGKILL)  # with requests under way
    process.communicate()
    saved = rows(workdir)
    page.keyboard.press("k")
    wait_for(lambda: "not saved" in page.locator("#problem").inner_text())
    keep_screenshot(page, "review-killed.png")
    process, url = started(workdir)
    page, more, said = opened(browser, url)
    wait_for(lambda: page.locator(".decided").count() == len(saved))
    assert rows(workdir) == saved  # Nothing is lost.
    keep_screenshot(page, "review-1280.png")
    narrow, even_more, _ = opened(browser, url, 390)
    overflow = "document.documentElement.scrollWidth > innerWidth"
    assert not narrow.evaluate(overflow) and not page.evaluate(overflow)
    keep_screenshot(narrow, "review-390.png")
    hosts = {url.split("/")[2].split(":")[0] for url in asked + more + even_more}
    process.send_signal(signal.SIGINT)
    assert "decisions are saved" in process.communicate(timeout=30)[0]
    assert process.returncode == 0
    return hosts, complaints + said


def check_decisions(workdir, tmp_path):
    """An export, and a second training, do what was decided."""
    decided = {row["id"]: row for row in rows(workdir)}
    assert [decided[IDS[i]]["decision"] for i in (0, 1, 2, 3, 9)] == [
        *("keep", "drop", "relabel", "keep", "drop")
    ]
    assert decided[IDS[8]]["new_label"] == MARKUP
    flags = [str(workdir), f"--to={tmp_path}/clean", f"--review={workdir}/review.csv"]
    assert export.main(flags) == 0
    root = tmp_path / "images"
    after = folder.load(fields(root, corrections=str(workdir / "review.csv")), 0).train
    found = dict(zip(after.ids.tolist(), after.labels.tolist(), strict=True))
    dropped = {name for name, row in decided.items() if row["decision"] == "drop"}
    assert {*IDS} - {*found} == dropped
    moved = {name for name, row in decided.items() if row["decision"] == "relabel"}
    assert moved and all("cat" in name for name in moved)
    assert {after.class_names[found[name]] for name in moved} == {MARKUP}
    assert len(folder.load(fields(tmp_path / "clean"), 0).train.ids) == len(found)
