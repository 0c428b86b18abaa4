#!/bin/bash
# One training on two machines with four CUDA devices each, in a work folder that both see: sbatch torchrun.sh cgan
#SBATCH --job-name=cgankd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

# srun takes no cores over from sbatch since SLURM 22.05, and a step would get one.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

stage=${1:?name a stage: teacher, cgan, ratio or student}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))

# A run that ends early goes on where it was when it is given again, also on another number of devices.
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node 4 \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:$port" \
    -m cgankd "$stage"
