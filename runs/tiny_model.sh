#!/bin/sh
# Trains the tiny model from scratch: under an hour on one free CPU core with native bf16, while a
# second core writes the training rows. Run from the repository's root. Every call starts with fresh
# optimiser states and a short warm-up, as the bundled weights did.
set -eu
export OMP_NUM_THREADS=1
points=runs/tiny_model/checkpoints
train() {
    python runs/tiny_model.py --model src/agenticlu/demo/model --log runs/tiny_model/log.jsonl \
        --checkpoints "$points" --seed 0 --muon-lr 0.01 --adam-lr 2e-3 "$@"
}
train --stages pairs facts talking
train --stages pointing --resume "$points/talking.pt"
train --stages longer --resume "$points/pointing.pt"
python runs/tiny_model/curves.py runs/tiny_model/log.jsonl runs/tiny_model/curves.svg
