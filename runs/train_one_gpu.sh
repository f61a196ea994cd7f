#!/usr/bin/env bash
# SFT, then DPO, of Llama-3.1-8B-Instruct with LoRA on one large card, at up to 131,072 tokens.
# GPU figures of this script are pending: it has not been run on a GPU by us yet.
#
#   DATA=my-data OUT=my-run runs/train_one_gpu.sh
#
# At toy size, on a CPU:  CONFIG=configs/tiny.toml MODEL=src/agenticlu/demo/model DATA=... OUT=...
set -euo pipefail
: "${DATA:?folder of the data set (agenticlu dataset build)}" "${OUT:?folder to write to}"
CONFIG=${CONFIG:-configs/one-gpu-lora.toml}
MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}

# What it will cost, and whether it fits; reads the rows, not the weights.
agenticlu train plan "$DATA" --config "$CONFIG" --model "$MODEL" --out "$OUT/sft"

# Run this script again after an interruption: each stage goes on from its last checkpoint, and a
# finished stage is left as it is.
agenticlu train sft "$DATA" --config "$CONFIG" --model "$MODEL" --out "$OUT/sft"
agenticlu train dpo "$DATA" --config "$CONFIG" --sft "$OUT/sft" --out "$OUT/dpo"
