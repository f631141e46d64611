#!/bin/sh
# The tables of docs/results.md on digits: all methods with their frozen controls under
# four distortions, and the ablations of autodo, by the paper's protocol: 405 clean
# points, which theta never learns from.
#
# Needs: the package installed; run from the root of the checkout. About half an hour
# on two cores, with two of these side by side: --task=0 --num_tasks=2 and --task=1.
# Example: launch/digits_tables.sh && python -m autodo_jax.report runs/digits
# Leaves: runs/digits/<IR-NR>/[<ablation>/]<method>-seed<k>.
set -e
sweep() {
    python launch/sweep.py --config=configs/digits.py \
        --config.data.validation_size=405 --config.task.joined_epochs=0 "$@"
}
sweep --distortions=10-0.1 --seeds=0,1,2,3,4 "$@"
sweep --distortions=10-0.1 --seeds=0,1,2,3,4 --ablations "$@"
sweep --distortions=1-0,10-0,1-0.1 --seeds=0,1,2 "$@"
