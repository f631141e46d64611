"""The table over runs, from hand-made result files."""

import csv
import io
import json
import math

import pytest

from autodo_jax.report import __main__ as cli
from autodo_jax.report import table
from autodo_jax.workdir import run


def write_result(folder, *, start_epoch=2, fields=None, **results):
    result = {
        "method": "autodo",
        "dataset": "digits",
        "seed": 0,
        "frozen": False,
        "imbalance_ratio": 10.0,
        "noise_ratio": 0.1,
        "epochs": 5,
        "test_error": 4.0,
        "class_error": dict(zip("0123", [0.0, 2.0, 4.0, 10.0], strict=True)),
        "seconds": 9.0,
    } | results
    config = {
        "seed": result["seed"],
        "epochs": result["epochs"],
        "hyper": {"start_epoch": start_epoch, "frozen": result["frozen"]},
    }
    for section, values in (fields or {}).items():
        config[section] = config.get(section, {}) | values
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def runs(tmp_path):
    write_result(tmp_path / "a0", test_error=4.0, noise_auroc=0.8)
    write_result(tmp_path / "a1", test_error=6.0, noise_auroc=0.9, seed=1)
    write_result(tmp_path / "f0", test_error=9.0, frozen=True)
    write_result(tmp_path / "deep" / "b0", method="baseline", test_error=20.0)
    (tmp_path / "unfinished").mkdir()
    return tmp_path


def test_rows_hold_mean_and_sample_deviation_with_the_control_first(runs, capsys):
    assert cli.main([str(runs), "--format=markdown", "--no-html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[-1].pop() == "9 ± 0" and cells[-1].pop() == "0.850 ± 0.071"
    assert cells[2:] == [
        ["digits", "10-0.1", "baseline", "-", "1", "20.0", "7.0", "-", "9"],
        ["digits", "10-0.1", "autodo", "frozen", "1", "9.0", "7.0", "-", "9"],
        ["digits", "10-0.1", "autodo", "learned", "2", "5.0 ± 1.4", "7.0 ± 0.0"],
    ]


def test_runs_of_other_configurations_are_not_averaged_together(runs):
    write_result(runs / "long", epochs=500)
    write_result(runs / "early", start_epoch=1)
    rows = table.rows(run.find([runs]))
    assert [(row.labels["variant"], row.labels["seeds"]) for row in rows] == [
        ("", "1"),
        ("", "1"),
        ("", "2"),
        ("epochs=500", "1"),
        ("hyper.start_epoch=1", "1"),
    ]


def test_a_variant_of_a_method_is_not_called_by_its_name_alone(runs):
    """Also where there is no other run of the method."""
    write_result(runs / "w", method="autodo_aw", fields={"hyper": {"weights": False}})
    for seed, number in enumerate((3, 3, 7)):
        fields = {"augment": {"num_ops": number, "policy": "randaugment"}}
        write_result(runs / f"r{seed}", method="randaugment", seed=seed, fields=fields)
    found = {
        (row.labels["method"], row.labels["variant"]): row.labels["seeds"]
        for row in table.rows(run.find([runs]))
    }
    assert found["autodo_aw", "hyper.weights=False"] == "1"
    assert found["randaugment", ""] == "2"
    assert found["randaugment", "augment.num_ops=7"] == "1"
    assert found["autodo", ""] in ("1", "2")  # the control, the learned ones


def test_csv_holds_full_numbers(runs, capsys):
    assert cli.main([str(runs), "--format=csv", "--no-html"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["method"] for line in lines] == ["baseline", "autodo", "autodo"]
    assert float(lines[2]["test error % mean"]) == 5
    assert float(lines[2]["test error % std"]) == pytest.approx(2**0.5)
    assert math.isnan(float(lines[0]["noise AUROC mean"]))


def test_latex_escapes_what_it_must(runs, capsys):
    write_result(runs / "shared", method="autodo_shared")
    assert cli.main([str(runs), "--format=latex", "--no-html"]) == 0
    text = capsys.readouterr().out
    assert r"autodo\_shared" in text and r"test error \%" in text
    assert r"5.0 $\pm$ 1.4" in text and r"\toprule" in text


def test_a_broken_result_is_named(runs, capsys):
    (runs / "a0" / "result.json").write_text("{")
    assert cli.main([str(runs), "--no-html"]) == 2
    error = capsys.readouterr().err
    assert "a0/result.json" in error and error.count("\n") == 1


def test_text_is_aligned(runs, capsys):
    assert cli.main([str(runs), "--no-html"]) == 0
    header, *body = capsys.readouterr().out.splitlines()
    column = header.index("method")
    assert [line[column:].split()[0] for line in body] == [
        "baseline",
        "autodo",
        "autodo",
    ]


def test_folders_without_runs_are_refused_in_one_line(tmp_path, capsys):
    assert cli.main([str(tmp_path), "--no-html"]) == 2
    assert cli.main([str(tmp_path / "absent"), "--no-html"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert (
        "no run with an epoch done" in errors[0]
        and "absent is not a folder" in errors[1]
    )
