"""Seconds and memory of what a run says of a folder before it trains.

    python benchmarks/folder_summary.py [--json=PATH] [--images=100000] [--repeats=3]

The folder is made up: JPEGs of 192 x 192 px in ten classes, one in a hundred a copy of
another. Three programs take turns, each a process of its own: Pillow reads and decodes
every file, one after the other; `--check` reads the folder, from the start of the
interpreter on; and so for streamed images.
"""

import io
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import common
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
SIZE, NUM_CLASSES, COPIES = 192, 10, 100
READ = """
import os, sys
import numpy as np
from PIL import Image
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with Image.open(os.path.join(folder, name)) as image:
            np.asarray(image.convert("RGB"))
"""
CHECK = ["--config=configs/folder.py", "--check"]


def make(root: pathlib.Path, num_images: int) -> None:
    """Writes a train set of `num_images` images and a small clean one of others."""
    rng = np.random.default_rng(0)
    content = b""
    for part, count in (("train", num_images), ("val", 100)):
        for index in range(count):
            copy = index % COPIES == COPIES - 1
            if not copy:
                coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
                file = io.BytesIO()
                image = Image.fromarray(coarse).resize((SIZE, SIZE))
                image.save(file, "JPEG", quality=90)
                content = file.getvalue()
            folder = root / part / f"class{(index - copy) % NUM_CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:07}.jpg").write_bytes(content)


def measure(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds, and the most memory it had, in GB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    return time.perf_counter() - start, used.ru_maxrss / 2**20


def main() -> None:
    arguments = common.parser(__doc__)
    arguments.add_argument("--images", type=int, default=100_000)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(pathlib.Path(folder), options.images)
        python = sys.executable
        check = [python, "-m", "autodo_jax.main", *CHECK]
        check += [f"--config.data.data_dir={folder}"]
        programs = {
            "Pillow": [python, "-c", READ, folder],
            "--check": check,
            "--check, streamed": [*check, "--config.data.stream=True"],
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for turn in range(-1, options.repeats):  # the first fills the page cache
            for name, command in programs.items():
                sample = measure(command)
                if turn >= 0:
                    samples[name].append(sample)
    base = statistics.median(seconds for seconds, _ in samples["Pillow"])
    for name, of_program in samples.items():
        seconds = statistics.median(seconds for seconds, _ in of_program)
        memory = max(memory for _, memory in of_program)
        print(f"{name}: {seconds:.1f} s, {seconds / base:.2f} x, {memory:.2f} GB")
    common.write(options.json, images=options.images, samples=samples)


if __name__ == "__main__":
    main()
