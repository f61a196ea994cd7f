#!/usr/bin/env bash
# The whole loop on a model that nobody here made and on questions that people wrote: SmolLM2-135M-
# Instruct teaches itself over XQuAD. No gold traces, no larger model; the known answers are all the
# supervision. On a CPU with native bf16; what it took is in docs/results.md.
#
#   MODEL=FOLDER XQUAD=xquad.en.json OUT=smollm2-run runs/smollm2.sh   # from the repository's root
#
# MODEL: HuggingFaceTB/SmolLM2-135M-Instruct, or a folder of it in Hugging Face layout.
# XQUAD: data/xquad/xquad.en.json of github.com/google-deepmind/xquad (CC BY-SA 4.0).
# SIZE=tiny runs every stage in a few minutes, on the bundled model and articles of its world, to see that
# the script works; its figures mean nothing.
# STAGES=distill adds distillation from evidence, which was not measured at full size.
#
# Run it again after an interruption: each stage goes on where it stopped, and a finished one is
# left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?folder to write to}"
SIZE=${SIZE:-full}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "$SIZE" = tiny ]; then
    MODEL=${MODEL:-src/agenticlu/demo/model}
    articles=4 train_questions=16 test_questions=4 dtype=float32 precision=fp32
    training=(--set lr=1e-4 --batch 8 --set max_steps=2) branching=2 pieces=32 answer_tokens=24
else
    : "${MODEL:?folder or hub id of SmolLM2-135M-Instruct}" "${XQUAD:?path of xquad.en.json}"
    articles=28 train_questions=${TRAIN_QUESTIONS:-725} test_questions=${TEST_QUESTIONS:-200}
    dtype=bfloat16 precision=bf16 branching=2 pieces=96 answer_tokens=96
    training=(--set lr=3e-4 --batch 12 --set traces_per_trie=12 --set epochs=2)
    training+=(--set "max_steps=${STEPS:-160}" --set save_every=5)
fi
mkdir -p "$OUT"
if [ "$SIZE" = tiny ] && [ -z "${XQUAD:-}" ]; then
    XQUAD=$OUT/made.json
    [ -f "$XQUAD" ] || python runs/smollm2/made.py "$XQUAD"
fi

# 1. Articles 1-28 are for training, 29-48 for testing; every article gives its share of questions.
[ -f "$OUT/corpora/test.jsonl" ] || python runs/smollm2/corpora.py "$XQUAD" "$OUT/corpora" \
    --articles "$articles" --train-questions "$train_questions" --test-questions "$test_questions"

# 2. What the untrained model does. It repeats itself and names no paragraph.
evaluate() { # LABEL MODEL
    agenticlu eval run --corpus "$OUT/corpora/test.jsonl" --methods direct,clarify --rounds 1 \
        --model "$2" --label "$1" --dtype "$dtype" --piece-tokens "$pieces" \
        --max-new-tokens "$answer_tokens" --concurrency 20 --out "$OUT/eval-$1"
}
evaluate base "$MODEL"

# 3. The search. The untrained model cannot hold the dialogue, so it is guided: clarifications are
# questions, findings are sentences of the two pieces that BM25 finds for the clarification, answers
# are spans of the finding. With a hint (STaR's rationalisation) findings hold the known answer where
# a sentence does; without it a sixth of the questions is solved, with it two thirds.
agenticlu generate run "$OUT/corpora/train.jsonl" --model "$MODEL" --dtype "$dtype" --out "$OUT/search" \
    --guide --hint --no-check --view document --grounding shortlist --threshold 0 \
    --shortlist-k 2 --top-k 2 --piece-tokens "$pieces" --branching "$branching" --depth 1 \
    --clarify-temperature 0.6 --answer-temperature 0.3 --reply-tokens clarify=32 --resamples 0 \
    --trees-at-once 24

# 4. Rounds point at the piece that they quote. Direct answers are taught as well: taught dialogues
# alone, the model would answer a direct question as if it were asked to clarify. So is pointing alone:
# in a whole conversation the number of a paragraph is one target among sixty, and learned last.
[ -f "$OUT/data/README.md" ] || agenticlu dataset build "$OUT/search" --direct --pointing \
    --validation 0 --out "$OUT/data"

# 5. Fine-tuning, all weights. All traces of an article share one pass over it.
agenticlu train sft "$OUT/data" --model "$MODEL" --preset tiny --precision "$precision" \
    --set self_checks=false "${training[@]}" --out "$OUT/sft"
evaluate sft "$OUT/sft/export"

# 6. Distillation from evidence: the taught model over whole articles learns what it says itself over
# the right pieces alone.
if [[ ${STAGES:-} = *distill* ]]; then
    agenticlu train distill "$OUT/data" --model "$OUT/sft" --preset tiny --precision "$precision" \
        --set lr=2e-5 --batch 8 --set "max_steps=${DISTILL_STEPS:-4}" --out "$OUT/distill"
    evaluate distill "$OUT/distill/export"
fi

# 7. One file of figures, without any text of XQuAD, and a picture of them.
python runs/smollm2/results.py "$OUT" --json "$OUT/results.json" --plot "$OUT/results.svg"
