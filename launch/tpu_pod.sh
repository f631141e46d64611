#!/bin/bash
# One run on all workers of a TPU pod slice.
#
# Needs: gcloud with a default project and zone; on each worker the checkout in
# ~/autodo_jax, installed with '.[tpu]', and a folder that all workers see for --workdir.
# Example: launch/tpu_pod.sh NAME --config=configs/imagenet.py --workdir=SHARED/imagenet
# Wide networks take minutes to compile: with JAX_COMPILATION_CACHE_DIR, a folder that
# all workers see, they are compiled once. One process on each worker drives all of its
# chips, 16 steps a dispatch; the run says before its first step what they need of the
# memory of a chip, and ends where it is too much.
# Leaves: the workdir. The same command continues from the last checkpoint.
if [ $# -lt 2 ]; then
    echo "usage: launch/tpu_pod.sh NAME --config=FILE --workdir=DIR ..." >&2
    exit 2
fi
name=$1
shift
printf -v arguments ' %q' "$@"
cache=
if [ -n "$JAX_COMPILATION_CACHE_DIR" ]; then
    printf -v cache 'env JAX_COMPILATION_CACHE_DIR=%q ' "$JAX_COMPILATION_CACHE_DIR"
fi
exec gcloud compute tpus tpu-vm ssh "$name" --worker=all \
    --command="cd autodo_jax && exec ${cache}python3 -m autodo_jax.main --distributed$arguments"
