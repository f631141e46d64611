#!/bin/bash
# All that is to be measured on a machine with a GPU, in order, within 25 minutes.
#
# Needs: a checkout, Python 3.11, an NVIDIA driver; the network, or WHEELS=FOLDER with the
# wheels of '.[test,bench,cuda12]'. CIFAR10=ARCHIVE of JPEG files for runs on photographs.
# Example: WHEELS=/mnt/wheels benchmarks/gpu.sh benchmarks/results/gpu
# Leaves: FOLDER with one JSON a point, and its log; a point that has its JSON is
# skipped. Exit status 0 if all points have theirs. PyTorch is measured on the CPU so far.
# DRY_RUN=1 takes the environment as it is, and tiny sizes.
if [ $# -ne 1 ]; then
    echo "usage: benchmarks/gpu.sh FOLDER" >&2
    exit 2
fi
mkdir -p "$1" || exit
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit
seconds=${SECONDS_IN_ALL:-1500}
failed=0

if [ -z "$DRY_RUN" ]; then
    python3 -m venv .venv-gpu && source .venv-gpu/bin/activate || exit
    offline=()
    if [ -n "$WHEELS" ]; then offline=(--no-index --find-links "$WHEELS"); fi
    pip install --quiet "${offline[@]}" -e '.[test,bench,cuda12]' || exit
fi
python3 - "$folder/machine.json" <<'PYTHON' || exit
import datetime, importlib.metadata, json, os, sys
import jax
device = jax.devices()[0]
if device.platform != "gpu" and not os.environ.get("DRY_RUN"):
    sys.exit(f"gpu.sh: JAX finds no GPU, only {device.device_kind}")
names = ("jax", "jaxlib", "flax", "optax", "torch")
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
json.dump(
    {
        "device": device.device_kind,
        "date": datetime.date.today().isoformat(),
        "versions": {name: found[name] for name in names if name in found},
    },
    open(sys.argv[1], "w"),
    indent=1,
)
PYTHON

# point NAME COMMAND...: skipped if NAME.json is there. The command writes NAME.json.part,
# else its seconds are noted; the file gets its name when the command has ended well.
point() {
    local name=$1 part=$folder/$1.json.part start=$SECONDS left
    shift
    if [ -e "$folder/$name.json" ]; then
        echo "$name: done before"
        return
    fi
    left=$((seconds - SECONDS))
    if [ "$left" -le 0 ]; then
        echo "$name: no time left"
        failed=1
        return
    fi
    rm -f "$part"
    if timeout "$left" "$@" >"$folder/$name.log" 2>&1; then
        [ -e "$part" ] ||
            printf '{"command": "%s", "seconds": %d}\n' "$*" $((SECONDS - start)) >"$part"
        mv "$part" "$folder/$name.json"
        echo "$name: done"
    else
        echo "$name: failed, see $folder/$name.log"
        failed=1
    fi
}

tests=(tests) digits=() few=() sizes=()
if [ -n "$DRY_RUN" ]; then
    tests=(tests/test_losses.py)
    digits=(--config.epochs=2 --config.hyper.start_epoch=1)
    few=(--repeats=1) sizes=(--points=1000)
fi
run() { point "$1" python3 -m autodo_jax.main --workdir="$folder/$1" "${@:2}"; }
measure() { point "$1" python3 "benchmarks/$1.py" --json="$folder/$1.json.part" "${@:2}"; }

# 1. It runs there.
point suite python3 -m pytest -q -p no:cacheprovider "${tests[@]}"
run digits --config=configs/digits.py "${digits[@]}"
# 2. Kernels; 3. steps; 5. scale.
measure augment "${few[@]}"
measure steps "${few[@]}"
measure scale "${few[@]}" "${sizes[@]}"
# 4. Truth comes last: it takes what time is left.
if [ -n "$CIFAR10" ]; then
    for method in baseline autodo; do
        run "cifar10-$method" --config="configs/cifar10_jpeg.py:$method" \
            --config.data.data_dir="$CIFAR10"
    done
fi
exit "$failed"
