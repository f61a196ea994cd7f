#!/usr/bin/env bash
# For clusters built on OpenRLHF and DeepSpeed: the same rows in OpenRLHF's trainers, with its ring
# attention. Nothing is shared between the traces of a document there. Needs `pip install openrlhf`
# and GPUs; not run by us. The rows are read as they are: prompt, chosen and rejected are lists of
# messages. OpenRLHF cuts the reply by the length of the prompt's text, so the chat template must
# only append (training with agenticlu checks that it does). DPO starts from the SFT result here,
# unlike in the published script.
#
#   DATA=my-data OUT=my-run runs/train_openrlhf.sh
set -euo pipefail
: "${DATA:?folder of the data set (agenticlu dataset build)}" "${OUT:?folder to write to}"
MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
common=(
    --max_len 131072 --train_batch_size 128 --micro_train_batch_size 1 --max_epochs 1
    --learning_rate 5e-7 --zero_stage 3 --bf16 --flash_attn --gradient_checkpointing
    --packing_samples --ring_attn_size 8 --ring_head_stride 2 --apply_chat_template
)

# SFT: one row per assistant turn; the chosen reply is the target.
deepspeed --module openrlhf.cli.train_sft "${common[@]}" \
    --pretrain "$MODEL" --dataset "$DATA/preference" \
    --input_key prompt --output_key chosen --save_path "$OUT/sft"

deepspeed --module openrlhf.cli.train_dpo "${common[@]}" \
    --pretrain "$OUT/sft" --ref_pretrain "$OUT/sft" --dataset "$DATA/preference" \
    --prompt_key prompt --chosen_key chosen --rejected_key rejected --beta 0.1 \
    --save_path "$OUT/dpo"
