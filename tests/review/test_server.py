"""The server of a review: decisions are on the disk, and nobody else is answered."""

import csv
import io
import json
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image

from autodo_jax.data.sources import labels
from autodo_jax.errors import DataError, WriteError
from autodo_jax.review import __main__ as review
from autodo_jax.review.decisions import Decisions
from autodo_jax.review.server import Point, Server
from autodo_jax.workdir import files
from tests.bad_input import tree
from tests.test_export import IDS, workdir_of

GIVEN = {name: name.split("/")[1] for name in IDS}
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def server(tmp_path):
    root = tree(tmp_path)
    points = [Point(name, GIVEN[name], MARKUP, 0.9, "") for name in IDS]
    decisions = Decisions(tmp_path / "decided.csv", GIVEN)
    read = lambda name: (root / name).read_bytes()  # noqa: E731
    with Server(points, ("cat", "dog", MARKUP), decisions, read) as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.01,))
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def ask(server, path, body=None, *, token=None, **headers):
    """Status, headers and contents of an answer."""
    token = server.token if token is None else token
    request = urllib.request.Request(f"{server.origin}{path}?token={token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Origin", server.origin)
    for name, value in headers.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_decisions_are_on_the_disk_before_they_are_confirmed(server, tmp_path):
    for i, (decision, label) in enumerate(
        (("keep", None), ("relabel", "dog"), ("drop", None))
    ):
        body = {"id": IDS[i], "decision": decision, "label": label}
        assert ask(server, "/decide", body)[0] == 200
        assert rows(tmp_path / "decided.csv")[-1] == {
            "id": IDS[i],
            "given_label": "cat",
            "decision": decision,
            "new_label": label or "",
        }
    state = json.loads(ask(server, "/state")[2])
    assert state["classes"] == ["cat", "dog", MARKUP]
    decided = [point["decision"] for point in state["points"]]
    assert decided[1] == {"kind": "relabel", "label": "dog"} and decided[3] is None
    assert json.loads(ask(server, "/undo", {})[2]) == {"undone": IDS[2]}
    assert [row["id"] for row in rows(tmp_path / "decided.csv")] == IDS[:2]


def test_images_are_those_of_the_points_and_no_others(server, tmp_path):
    status, headers, content = ask(server, "/image/4")
    assert status == 200 and headers["Content-Type"] == "image/png"
    with (
        Image.open(io.BytesIO(content)) as shown,
        Image.open(tmp_path / "images" / IDS[4]) as expected,
    ):
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))
    for path in ("/image/6", "/image/-1", "/image/../../x", "/image/%2e%2e", "/x"):
        assert ask(server, path)[0] == 404
    (tmp_path / "images" / IDS[0]).write_text("<svg onload='alert(1)'/>")
    assert ask(server, "/image/0")[0] == 404


PATHS = ["/", "/state", "/image/0"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("change", ["no token", "another host"])
def test_nobody_is_answered_without_the_token_and_the_address(server, path, change):
    if change == "no token":
        for token in ("", "x", server.token[:-1], "é"):
            assert ask(server, path, token=urllib.parse.quote(token))[0] == 403
    else:
        for host in ("evil.example", "localhost", f"evil.example:{server.server_port}"):
            assert ask(server, path, Host=host)[0] == 403


@pytest.mark.parametrize("path", ["/decide", "/undo"])
def test_other_pages_cannot_decide(server, path, tmp_path):
    body = {"id": IDS[0], "decision": "keep"}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
    ):
        assert ask(server, path, body, **headers)[0] == 403
    assert ask(server, path, body, token="x")[0] == 403
    assert not (tmp_path / "decided.csv").exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"id": IDS[0]},
        {"id": IDS[0], "decision": "maybe"},
        {"id": IDS[0], "decision": "relabel"},
        {"id": IDS[0], "decision": "relabel", "label": "emu"},
        {"id": IDS[0], "decision": "keep", "label": "cat"},
        {"id": "../../etc/passwd", "decision": "drop"},
        {"id": IDS[0], "decision": "relabel", "label": ["cat"]},
    ],
)
def test_what_is_no_decision_is_refused(server, body, tmp_path):
    assert ask(server, "/decide", body)[0] == 400
    assert not (tmp_path / "decided.csv").exists()


def test_the_page_loads_nothing_from_elsewhere(server):
    for path in ("/", "/review.js", "/review.css"):
        status, headers, content = ask(server, path)
        policy = headers["Content-Security-Policy"]
        assert status == 200 and policy.startswith("default-src 'none'; script-src")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert b"http" not in content and b"innerHTML" not in content
    assert server.server_address[0] == "127.0.0.1"


def test_decisions_are_resumed_and_taken_back(tmp_path):
    path = tmp_path / "decided.csv"
    first = Decisions(path, GIVEN)
    first.decide(IDS[0], "keep")
    first.decide(IDS[1], "drop")
    first.decide(IDS[0], "relabel", "dog")
    again = Decisions(path, GIVEN)
    assert again.current == first.current == labels.read_decisions(str(path))
    assert first.undo() == IDS[0]
    assert first.current[IDS[0]] == ("keep", None)  # as it was before
    assert [first.undo(), first.undo(), first.undo()] == [IDS[1], IDS[0], None]
    assert rows(path) == []
    path.write_text("id,given_label,decision,new_label\nother.png,cat,drop,\n")
    with pytest.raises(DataError, match="1 of which are not images of this folder"):
        Decisions(path, GIVEN)


def test_what_cannot_be_written_is_not_decided(tmp_path, monkeypatch):
    decisions = Decisions(tmp_path / "decided.csv", GIVEN)
    decisions.decide(IDS[0], "keep")

    def full(path, text):
        raise WriteError(f"cannot write {path}: no space left")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_text", full)
        with pytest.raises(WriteError):
            decisions.decide(IDS[1], "drop")
        with pytest.raises(WriteError):
            decisions.undo()
    assert (
        [*decisions.current]
        == IDS[:1]
        == [row["id"] for row in rows(tmp_path / "decided.csv")]
    )


def test_certain_errors_come_first_then_the_largest_scores(tmp_path):
    workdir = workdir_of(tmp_path, tree(tmp_path))
    report = review.load_dataset_report(workdir)
    conflicts = [[IDS[2], "cat", IDS[3], "dog"], ["left/out.png", "cat", IDS[1], "dog"]]
    found = [*review.points_of(report, conflicts)]
    assert [point.id for point in found] == [IDS[i] for i in (2, 3, 1, 0, 4)]
    assert found[0].reason == f"the same pixels as {IDS[3]}, which is dog"
    assert [point.score for point in found[-2:]] == [0.9, 0.8]
    assert not found[-1].reason and found[-1].suggested == "cat"


def test_other_data_than_folders_are_refused(tmp_path, capsys):
    workdir = workdir_of(tmp_path, "", source="digits")
    (workdir / "result.json").write_text("{}")
    assert review.main([str(workdir), "--no_browser"]) == 2
    (workdir / "result.json").unlink()
    assert review.main([str(workdir), "--no_browser"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "was trained on digits, but only" in lines[1]
