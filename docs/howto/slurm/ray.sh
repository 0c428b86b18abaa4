#!/bin/bash
# Students, draws or trials on a Ray cluster of four machines that ends with the job: sbatch ray.sh
#SBATCH --job-name=cgankd-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

# srun takes no cores over from sbatch since SLURM 22.05, and a step would get one.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))

# A token for this job alone, readable by this user alone.
token=$(umask 077 && mktemp "$PWD/.ray-token-XXXXXX")
trap 'rm -f "$token"' EXIT
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0

srun --nodes=1 --ntasks=1 --overlap --nodelist="${hosts[0]}" \
    ray start --head --node-ip-address "$head" --port "$port" --num-cpus "$SLURM_CPUS_PER_TASK" \
    --include-dashboard false --block &
sleep 30
for host in "${hosts[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$host" \
        ray start --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --block &
done
sleep 30

export CGANKD_ENGINE=ray RAY_ADDRESS=$head:$port
cgankd doctor
dvc repro
