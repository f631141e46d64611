"""Kills of whole runs at random moments, each of which has to change nothing.

    python benchmarks/kills.py FOLDER [--kills=1000] [--seed=0]

Small runs of `configs/digits.py:autodo_s` are started again and again by the same
command and killed (`kill -9`) some time later, until one finishes; then the next run
begins. Every finished run is compared with one that nobody killed: numbers, Lambda, the
report on the points and the last state have to be the same bits, and no temporary file
may be left. A line for each kill goes to FOLDER/kills.jsonl; the same command continues
there, and prints the table of all lines. A kill costs a few seconds.
"""

import argparse
import collections
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from autodo_jax.workdir import files

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS, FLAGS = (
    12,
    [
        f"--config={ROOT}/configs/digits.py:autodo_s",
        "--config.batch_size=32",
        "--config.model.widths=(4,)",
        "--config.hyper.start_epoch=1",
        "--config.num_devices=1",
        "--config.checkpoint_every=1",
        "--config.checkpoint_minutes=0.003",  # about twice an epoch
    ],
)
TIMES = {"seconds", "images_per_second", "data_wait"}
LONGEST = 12.0  # seconds after which a run is killed, at most
IN_REPORT = 2  # kills of a run that only lacks its report, at most
PHASES = ("start", "steps", "save", "results", "report", "end")
# Children of the server start with everything imported.
CONTEXT = multiprocessing.get_context("forkserver")


def train(folder: pathlib.Path) -> None:
    """Runs the command line in a process of its own."""
    from autodo_jax import main

    with open(folder.with_suffix(".log"), "a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        flags = [*FLAGS, f"--config.epochs={EPOCHS}", f"--workdir={folder}"]
        sys.exit(main.main(["main", *flags]))


def start(folder: pathlib.Path) -> Any:
    """Returns the started process."""
    CONTEXT.set_forkserver_preload(["autodo_jax.main", "autodo_jax.workdir.checkpoint"])
    process = CONTEXT.Process(target=train, args=(folder,))
    process.start()
    return process


def outcome(folder: pathlib.Path) -> dict[str, str]:
    """Returns a digest of each part of what a run leaves, but for times."""
    records = [json.loads((folder / files.RESULT).read_text())]
    text = (folder / files.METRICS).read_text()
    records += [json.loads(line) for line in text.splitlines()]
    numbers = [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in records
    ]
    with np.load(folder / files.HYPERPARAMS) as tables:
        arrays = [tables[name].tobytes() for name in sorted(tables)]
    steps = [
        path for path in (folder / files.CHECKPOINTS).iterdir() if path.name.isdecimal()
    ]
    last = max(steps, key=lambda path: int(path.name))
    # Orbax names some of its files by the time; arrays are compared by their values.
    arrays += [np.asarray(leaf).tobytes() for leaf in state(last / "state")]
    parts = {
        "numbers": json.dumps(numbers).encode(),
        "arrays": b"".join(arrays),
        "step": last.name.encode(),
        "report": (folder / files.DATASET).read_bytes(),
    }
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def state(folder: pathlib.Path) -> list[Any]:
    """Returns the arrays of a checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    checkpointer = ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        checkpointer.metadata(folder).item_metadata.tree,
    )
    return jax.tree.leaves(checkpointer.restore(folder, restore_args=as_numpy))


def where(folder: pathlib.Path, log_before: int) -> str:
    """Returns what a run was doing when it was killed."""
    if not folder.exists():
        return "start"
    names = {path.name for path in folder.iterdir()}
    log = folder.with_suffix(".log").read_text()[log_before:]
    if files.RESULT.name in names:
        return "end" if "report: " in log else "report"
    if any((folder / files.CHECKPOINTS).glob("*.orbax-checkpoint-tmp*")):
        return "save"
    if any(name.startswith(files.DATASET.name) for name in names):
        return "results"
    is_training = "epoch " in log or "continues from" in log
    return "steps" if is_training else "start"


def runs(folder: pathlib.Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Kills runs for ever; yields where each kill fell, and each end of a run."""
    whole_folder = folder / "whole"
    if not (whole_folder / files.REPORT).exists():
        process = start(whole_folder)
        process.join()
    whole = outcome(whole_folder)
    run, in_report = folder / "run", 0
    while True:
        log = run.with_suffix(".log")
        before = log.stat().st_size if log.exists() else 0
        process = start(run)
        # Half of the kills come soon, so that no run of many epochs is needed.
        delay = rng.uniform(0, LONGEST if rng.random() < 0.5 else LONGEST / 3)
        process.join(delay if in_report < IN_REPORT else None)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            phase = where(run, before)
            in_report += phase == "report"
            yield {"kill": phase, "seconds": round(delay, 2)}
            continue
        in_report = 0
        text = log.read_text()
        found = outcome(run) if process.exitcode == 0 else {}
        wrong = [name for name, digest in whole.items() if found.get(name) != digest]
        wrong += [path.name for path in run.glob("*.tmp")]
        wrong += ["a traceback"] * ("Traceback" in text)
        if not (run / files.REPORT).exists():
            wrong.append("no report")
        if wrong:
            shutil.copytree(run, folder / f"wrong-{time.time():.0f}")
        # None, since old checkpoints are renamed before they are removed.
        yield {"finished": not wrong, "wrong": wrong, "aside": text.count("is damaged")}
        shutil.rmtree(run)
        log.unlink()


def table(lines: list[dict[str, Any]]) -> str:
    """Returns the kills by where they fell, and how the runs have ended."""
    fell = collections.Counter(line["kill"] for line in lines if "kill" in line)
    ended = [line for line in lines if "finished" in line]
    rows = ["| killed while | kills |", "|---|---|"]
    rows += [f"| {phase} | {fell[phase]} |" for phase in PHASES]
    good = sum(line["finished"] for line in ended)
    rows += [f"| all | {fell.total()} |", ""]
    aside = sum(line["aside"] for line in ended)
    return "\n".join(
        [
            *rows,
            f"{good} of {len(ended)} runs ended with the same bits; {aside} checkpoints"
            " were set aside",
        ]
    )


def main() -> None:
    """Kills until there are enough lines, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "kills.jsonl"
    lines = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if (path.exists())
        else []
    )
    rng = random.Random(f"{arguments.seed} {len(lines)}")
    # The last run is brought to its end.
    missing = arguments.kills - sum("kill" in line for line in lines)
    for line in runs(arguments.folder, rng) if missing > 0 else ():
        lines.append(line)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
        missing -= "kill" in line
        if missing <= 0 and "finished" in line:
            break
    print(table(lines))


if __name__ == "__main__":
    main()
