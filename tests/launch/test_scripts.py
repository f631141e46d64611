"""Scripts that start runs: with stubs on PATH they do what their headers say."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from autodo_jax import command_line

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
FILES = sorted(path for path in LAUNCH.iterdir() if path.is_file())


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Puts a shell script of that name and body first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path))

    def write(name, body):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return write


def stub_processes(stub, *bodies):
    """Process i runs the shell code bodies[i], having recorded its arguments."""
    cases = "\n".join(
        f"*--process_id={number}) {body} ;;" for number, body in enumerate(bodies)
    )
    stub(
        "python",
        f'if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
        'for id; do :; done\nprintf "%s\\n" "$@" >"$RECORD/${id#*=}.part"\n'
        'mv "$RECORD/${id#*=}.part" "$RECORD/${id#*=}"\n'
        f'case "$*" in\n{cases}\nesac',
    )


def start(name, *args, **environment):
    return subprocess.Popen(
        [LAUNCH / name, *args],
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process):
    """Returns its exit status, stdout and stderr."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def wait_for(*paths):
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.05)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(path):
    shell = path.read_text().partition("\n")[0].removeprefix("#!/bin/")
    assert shell in ("sh", "bash")
    subprocess.run([shell, "-n", path], check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_says_what_it_needs_and_leaves(path):
    for word in ("Needs:", "Example:", "Leaves:"):
        assert word in path.read_text()


def test_processes_of_this_machine_share_a_coordinator(stub, tmp_path):
    stub_processes(stub, "echo first", "echo second")
    status, out, err = finish(start("local_multiprocess.sh", "2", "--config=a b.py"))
    assert (status, out, err) == (0, "first\n", "second\n")
    first, second = (
        (tmp_path / number).read_text().splitlines() for number in ("0", "1")
    )
    assert first[:3] == ["-m", "autodo_jax.main", "--config=a b.py"]
    assert re.fullmatch(r"--coordinator=127\.0\.0\.1:\d+", first[3])
    assert first[4:] == ["--num_processes=2", "--process_id=0"]
    assert second == [*first[:5], "--process_id=1"]


@pytest.mark.parametrize(
    "bodies,failed,status",
    [
        (("exec sleep 60", "exit 7"), 1, 7),
        (("exit 1", "exec sleep 60"), 0, 1),
        (("exit 1", "kill -KILL $$"), 1, 137),
    ],
    ids=["others are ended", "the first fails", "the killed one is named"],
)
def test_a_failing_process_ends_the_others(stub, bodies, failed, status):
    stub_processes(stub, *bodies)
    done = finish(start("local_multiprocess.sh", "2", GRACE="1"))
    assert done == (
        status,
        "",
        f"local_multiprocess: process {failed} ended with status {status}, ending the "
        "others; the same command continues from the last checkpoint\n",
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_processes_save(stub, tmp_path, signum):
    saves = 'trap "echo saved; exit 143" TERM; touch "$RECORD/ready%d"'
    waits = "while :; do sleep 0.1; done"
    stub_processes(stub, *(f"{saves % number}; {waits}" for number in (0, 1)))
    process = start("local_multiprocess.sh", "2")
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    process.send_signal(signum)
    assert finish(process) == (143, "saved\n", "saved\n")


def test_a_second_signal_kills(stub, tmp_path):
    body = 'trap "touch $RECORD/told" TERM; touch "$RECORD/ready"'
    stub_processes(stub, f"{body}; while :; do sleep 0.1; done")
    process = start("local_multiprocess.sh", "1")
    wait_for(tmp_path / "ready")
    process.terminate()
    wait_for(tmp_path / "told")
    process.terminate()
    assert finish(process)[0] == 137


@pytest.mark.parametrize("args", [[], ["--config=c.py"], ["0"]])
def test_the_number_of_processes_is_needed(args):
    status, out, err = finish(start("local_multiprocess.sh", *args))
    assert (status, out) == (2, "")
    assert err.startswith("usage:")


def run_slurm(stub, tmp_path, *, srun, state):
    """Runs slurm.sbatch as SLURM does; returns it and the commands it gives SLURM."""
    stub("srun", f'echo srun "$@" >>"$RECORD/calls"\n{srun}')
    stub("squeue", f"echo {state}")
    stub("scancel", 'echo scancel "$@" >>"$RECORD/calls"; touch "$RECORD/told"')
    stub("scontrol", 'echo scontrol "$@" >>"$RECORD/calls"')
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    return subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch", "--config=a b.py"], env=os.environ | job
    )


@pytest.mark.parametrize(
    "status,state,requeued",
    [
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        (143, "RUNNING", True),
        (143, "COMPLETING", False),
    ],
)
def test_slurm_requeues_what_was_saved(stub, tmp_path, status, state, requeued):
    process = run_slurm(stub, tmp_path, srun=f"exit {status}", state=state)
    assert process.wait(30) == status
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].endswith("python -m autodo_jax.main --distributed --config=a b.py")
    assert calls[1:] == ["scontrol requeue 7"] * requeued


def test_slurm_signals_the_tasks_not_srun(stub, tmp_path):
    srun = (
        'trap "exit 9" TERM; touch "$RECORD/ready"\n'
        'until [ -e "$RECORD/told" ]; do sleep 0.1; done; exit 143'
    )
    process = run_slurm(stub, tmp_path, srun=srun, state="RUNNING")
    wait_for(tmp_path / "ready")
    process.terminate()
    assert process.wait(30) == 143
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1:] == ["scancel --signal=TERM 7", "scontrol requeue 7"]


def test_tpu_workers_get_the_arguments_as_given(stub, tmp_path):
    stub("gcloud", 'printf "%s\\n" "$@" >"$RECORD/calls"')
    stub("python3", 'printf "%s\\n" "$@" >"$RECORD/args"')
    assert finish(start("tpu_pod.sh", "pod", "--config=a b.py", "--x=$y"))[0] == 0
    *words, command = (tmp_path / "calls").read_text().splitlines()
    assert words == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=all"]
    (tmp_path / "autodo_jax").mkdir()
    command = command.removeprefix("--command=")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "args").read_text().splitlines() == [
        *("-m", "autodo_jax.main", "--distributed", "--config=a b.py", "--x=$y")
    ]


def test_tpu_workers_share_a_cache_of_programs(stub, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/a shared/folder")
    stub("gcloud", 'printf "%s\\n" "$@" >"$RECORD/calls"')
    stub("python3", 'echo "$JAX_COMPILATION_CACHE_DIR" >"$RECORD/cache"')
    assert finish(start("tpu_pod.sh", "pod", "--config=x.py"))[0] == 0
    command = (tmp_path / "calls").read_text().splitlines()[-1]
    (tmp_path / "autodo_jax").mkdir()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    command = command.removeprefix("--command=")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "cache").read_text() == "/a shared/folder\n"


def test_jobset_starts_as_many_processes_as_pods(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (LAUNCH / "k8s_jobset.yaml").read_text()
    jobset = yaml.safe_load(text.replace("$(JOB_COMPLETION_INDEX)", "1"))
    spec = jobset["spec"]
    (workers,) = spec["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    command = container["command"]
    assert command[:2] == ["python", "-m"]
    cluster = command_line.parse(command[2:]).cluster
    host = f"{jobset['metadata']['name']}-{workers['name']}-0-0"
    (port,) = container["ports"]
    assert cluster.coordinator == (
        f"{host}.{spec['network']['subdomain']}:{port['containerPort']}"
    )
    assert cluster.num_processes == job["parallelism"] == job["completions"]
    assert cluster.process_id == 1
    assert job["completionMode"] == "Indexed"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert mount["mountPath"] == f"{container['workingDir']}/runs"
