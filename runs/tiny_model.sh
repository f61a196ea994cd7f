#!/bin/sh
# Trains the tiny model from scratch: three quarters of an hour on one free CPU core with native
# bf16 (the rows are written on the same core). Run from the repository's root. Every call starts
# with fresh optimiser states and a short warm-up; a stage that has its checkpoint is left as it is.
set -eu
export OMP_NUM_THREADS=1
model=${MODEL:-src/agenticlu/demo/model}
points=${CHECKPOINTS:-runs/tiny_model/checkpoints}
log=${LOG:-runs/tiny_model/log.jsonl}
before=
for stage in pairs facts numbers talking longer; do
    [ -f "$points/$stage.pt" ] ||
        python runs/tiny_model.py --model "$model" --log "$log" --checkpoints "$points" \
            --seed 0 --muon-lr 0.01 --adam-lr 2e-3 --stages "$stage" ${before:+--resume "$before"}
    before=$points/$stage.pt
done
python runs/tiny_model/curves.py "$log" "${log%log.jsonl}curves.svg"
