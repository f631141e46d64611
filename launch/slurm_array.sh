#!/bin/sh
# A grid of runs as a SLURM job array, one share of the grid for each task.
#
# Needs: the package installed in the environment that is active at submission; submit
# from the root of the checkout. Finished runs are skipped, so submitting again
# completes those that were cut off.
# Example: sbatch --array=0-15 launch/slurm_array.sh --config=configs/cifar10.py \
#              --distortions=1-0,10-0,1-0.1,10-0.1 --seeds=0,1,2
# Leaves: runs/<config>/<IR-NR>/<method>-seed<k>, and a log for each task.
#SBATCH --job-name=autodo
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --output=autodo-%A-%a.log
exec python launch/sweep.py --task="$SLURM_ARRAY_TASK_ID" \
    --num_tasks="$SLURM_ARRAY_TASK_COUNT" "$@"
