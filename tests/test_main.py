"""The command line as a user meets it: exit status, one line for what is wrong."""

import json
import pathlib
import subprocess
import sys

import pytest

from autodo_jax import main
from autodo_jax.errors import ConfigError
from autodo_jax.workdir import folder
from tests.data import tiny

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py"
TINY = [
    "--config.epochs=2",
    "--config.batch_size=32",
    "--config.model.widths=(4,)",
    "--config.hyper.start_epoch=1",
    "--config.num_devices=1",
]


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "autodo_jax.main", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_run_finishes_and_is_not_repeated(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = [DIGITS + ":baseline", *TINY, f"--workdir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.delenv("JAX_COMPILATION_CACHE_DIR")
        assert main.main(["main", *flags, "--nocompilation_cache"]) == 0
    assert not (tmp_path / "cache/autodo_jax").exists()
    out = capsys.readouterr().out
    assert "epoch 2/2: loss" in out and "test error" in out
    result = (tmp_path / "result.json").read_text()
    assert main.main(["main", *flags]) == 0
    assert "is finished" in capsys.readouterr().out
    # What does not change the result does not make another run.
    assert main.main(["main", *flags, "--config.checkpoint_minutes=1"]) == 0
    assert main.main(["main", *flags, "--config.epochs=3"]) == 2
    assert "another config.epochs;" in capsys.readouterr().err
    other = ["main", *flags, "--config.seed=5"]
    assert main.main(other) == 2
    error = capsys.readouterr().err
    assert "another config.seed" in error and "--overwrite" in error
    assert (tmp_path / "result.json").read_text() == result
    assert main.main([*other, "--overwrite"]) == 0
    assert (tmp_path / "result.json").read_text() != result


def test_cifar10_runs_from_what_is_prepared_without_tensorflow(tmp_path):
    tiny.prepare_tiny_cifar10(tmp_path, num_train=200, num_test=30)
    flags = [
        "--config=configs/cifar10.py:baseline",  # quick to compile
        f"--config.data.data_dir={tmp_path}",
        "--config.model.name=small_cnn",
        "--config.data.imbalance_ratio=2",
        *TINY,
        f"--workdir={tmp_path}/run",
    ]
    program = (
        "import sys; from autodo_jax import main; status = main.main(sys.argv); "
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    # Of 200 points 40 are for validation; classes 5 to 9 keep half of their 80.
    sizes = [result[name] for name in ("num_train", "num_val", "num_test")]
    assert sizes == [120, 40, 30]


def test_help_is_not_an_error(capsys):
    assert main.main(["main", "--help"]) == 0
    assert "--config=configs/digits.py" in capsys.readouterr().out


def test_default_workdir_tells_config_method_seed_and_control():
    from configs import digits

    config = digits.get_config("autodo_a")
    config.seed = 3
    assert folder.default_path(config) == pathlib.Path("runs/digits/autodo_a-seed3")
    config.hyper.frozen = True
    frozen = pathlib.Path("runs/digits/autodo_a-frozen-seed3")
    assert folder.default_path(config) == frozen


def test_verbosity_shows_the_traceback():
    with pytest.raises(ConfigError, match=r"config\.epochs is -1"):
        main.main(["main", DIGITS, "--config.epochs=-1", "--verbosity=1"])


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = [DIGITS + ":baseline", *TINY, f"--workdir={tmp_path / 'run'}"]

    def compiled():
        return {path.name for path in tmp_path.glob("cache/autodo_jax/*/*-cache")}

    results = []
    for _ in range(2):
        found = compiled()
        again = command(*flags, "--overwrite")
        assert again.returncode == 0 and not again.stderr
        results.append(json.loads((tmp_path / "run/result.json").read_text()))
    assert results[0] | {"seconds": 0} == results[1] | {"seconds": 0}
    assert any(name.startswith("jit_task_step") for name in found), found
    assert compiled() == found
