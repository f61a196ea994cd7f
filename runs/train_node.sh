#!/usr/bin/env bash
# The paper's recipe on one node of eight 80 GB cards: full weights, sharded over the cards (FSDP2),
# one document per card at a time. GPU figures of this script are pending.
#
#   DATA=my-data OUT=my-run runs/train_node.sh
#
# Cards that cannot hold a whole document share one:  EXTRA="--context-parallel 8"
# (Ulysses up to the number of key heads; --context-mode ring for more). On DeepSpeed instead of
# FSDP2:  EXTRA="--shard zero3", with pip install 'agenticlu[deepspeed]'.
set -euo pipefail
: "${DATA:?folder of the data set (agenticlu dataset build)}" "${OUT:?folder to write to}"
CONFIG=${CONFIG:-configs/paper-8b.toml}
MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
RANKS=${RANKS:-8}
read -r -a extra <<<"${EXTRA:-}"

launch() {
    torchrun --standalone --nproc-per-node "$RANKS" --no-python agenticlu train "$@" \
        ${extra[@]+"${extra[@]}"}
}

agenticlu train plan "$DATA" --config "$CONFIG" --model "$MODEL" --out "$OUT/sft" \
    --ranks "$RANKS" ${extra[@]+"${extra[@]}"}
launch sft "$DATA" --config "$CONFIG" --model "$MODEL" --out "$OUT/sft"
launch dpo "$DATA" --config "$CONFIG" --sft "$OUT/sft" --out "$OUT/dpo"
