#!/usr/bin/env bash
# One model on two nodes with four GPUs each: sbatch training/examples/slurm.sh DATASET RUN --plan plan.json
# DATASET and RUN lie on a file system that both nodes see. srun starts one process per GPU; fit reads from SLURM's
# environment how many there are. The batch must be a multiple of 8.
#SBATCH --job-name=unetsegment
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
set -euo pipefail
# Should one process fail the others are stopped. Interrupted, the same line goes on after the last epoch that was done.
srun --kill-on-bad-exit=1 unetsegment-train fit "$@" --device gpu
