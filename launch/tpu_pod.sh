#!/bin/bash
# One run on all workers of a TPU pod slice.
#
# Needs: gcloud with a default project and zone; on each worker the checkout in
# ~/autodo_jax, installed with '.[tpu]', and a folder that all workers see for --workdir.
# Example: launch/tpu_pod.sh NAME --config=configs/imagenet.py --workdir=SHARED/imagenet
# Leaves behind: the workdir. The same command continues from the last checkpoint.
if [ $# -lt 2 ]; then
    echo "usage: launch/tpu_pod.sh NAME --config=FILE --workdir=DIR ..." >&2
    exit 2
fi
name=$1
shift
printf -v arguments ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --worker=all \
    --command="cd autodo_jax && exec python3 -m autodo_jax.main --distributed$arguments"
