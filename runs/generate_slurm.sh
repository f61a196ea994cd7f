#!/bin/bash
# Tree search as a Slurm array: every task takes its share of the documents, on its node's own disk,
# and seals what it finished to a folder that all nodes see, every ten minutes and when it is told to
# end. Submitting the same array again, with any number of tasks, goes on with what was sealed, on
# whatever node: a task that is requeued loses ten minutes at most, one that ends in order nothing.
#
#   sbatch --array=0-15 runs/generate_slurm.sh corpus.jsonl /shared/run1 meta-llama/Llama-3.1-8B-Instruct
#   agenticlu status /shared/run1/segments
#
# When all tasks are done, merge (in any order; duplicates do no harm):
#
#   agenticlu generate merge /shared/run1/segments --out /local/run1
#   agenticlu dataset build /local/run1 --out /shared/run1/data --license LICENCE
#
#SBATCH --job-name=agenticlu-generate
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#SBATCH --output=agenticlu-%A-%a.log
set -euo pipefail

corpus=$1
shared=$2
model=$3
shift 3 # what is left goes to agenticlu generate, such as --branching 8 --depth 3

# SQLite wants a local disk. Where it outlives the task, a restart on the same node loses nothing.
local=${LOCAL_DISK:-/tmp}/agenticlu-$(basename "$shared")-$SLURM_ARRAY_TASK_ID-of-$SLURM_ARRAY_TASK_COUNT
port=$((20000 + SLURM_ARRAY_TASK_ID))

# One server for each task, with its prefix cache on: the order of the requests is made for it.
vllm serve "$model" --port "$port" --enable-prefix-caching --enable-prompt-tokens-details &
server=$!
trap 'kill "$server"' EXIT
until curl --silent --fail "http://127.0.0.1:$port/v1/models" > /dev/null; do
    kill -0 "$server" # ends the task when the server has ended
    sleep 5
done

# Slurm tells this script five minutes before the time is over, and when the task must make room; the
# search is told in turn, and seals. The first wait ends with the signal, the second with the search.
trap 'kill -TERM $search' TERM
agenticlu generate "$corpus" --out "$local" \
    --base-url "http://127.0.0.1:$port/v1" --model "$model" --tokenizer "$model" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --seal "$shared/segments" "$@" &
search=$!
wait "$search" || wait "$search"
