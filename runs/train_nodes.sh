#!/usr/bin/env bash
# Several nodes under Slurm: one torchrun per node. The run's folder must be on a shared file
# system. A job that is killed and submitted again goes on from its last checkpoint, also on
# another number of nodes. GPU figures of this script are pending.
#
#   sbatch --export=ALL,DATA=my-data,OUT=/shared/my-run runs/train_nodes.sh
#
#SBATCH --job-name=agenticlu
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
: "${DATA:?folder of the data set}" "${OUT:?folder to write to, on a shared file system}"
CONFIG=${CONFIG:-configs/paper-8b.toml}
MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
RANKS=${RANKS:-8}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

launch() {
    srun --kill-on-bad-exit=1 torchrun \
        --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$RANKS" \
        --rdzv-backend c10d --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID" \
        --no-python agenticlu train "$@"
}

launch sft "$DATA" --config "$CONFIG" --model "$MODEL" --out "$OUT/sft"
launch dpo "$DATA" --config "$CONFIG" --sft "$OUT/sft" --out "$OUT/dpo"
