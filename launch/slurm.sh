#!/usr/bin/env bash
#SBATCH --job-name=bat
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4          # one process a GPU
#SBATCH --gpus-per-node=4            # all of them visible to each process, which takes its own
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180            # to the processes that srun started, before the end
#SBATCH --requeue
#SBATCH --open-mode=append
# A run over two nodes: sbatch launch/slurm.sh CONFIG [--option value ...]
# All nodes see the folder that it is submitted from, the data and the work directory.

cd "$SLURM_SUBMIT_DIR" || exit
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    python -m train "$@" --processes.join True
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID" # the same job again, which goes on
fi
exit "$code"
