#!/usr/bin/env bash
# For clusters built on OpenRLHF 0.11 and DeepSpeed: the same rows in OpenRLHF's trainers, with its
# ring attention. Nothing is shared between the traces of a document there; `agenticlu train --shard
# zero3` trains on DeepSpeed and shares. Needs `pip install 'openrlhf[ring]'` and GPUs. Not run by
# us: a test parses every option with OpenRLHF's own parser and cuts rows as its loader does.
#
# Rows of both stages are those of DATA/preference, as they are: prompt, chosen and rejected are
# lists of messages. SFT learns the chosen replies. OpenRLHF cuts a reply by the length of the
# prompt's text, so the chat template must only append (training with agenticlu checks that it
# does). It drops prompts of more than max_len tokens in silence and cuts replies there. DPO starts
# from the SFT result, unlike in the published script.
#
#   DATA=my-data OUT=my-run runs/train_openrlhf.sh
#
# Run it again after an interruption: each stage goes on from its last checkpoint.
set -euo pipefail
: "${DATA:?folder of the data set (agenticlu dataset build)}" "${OUT:?folder to write to}"
MODEL=${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
common=(
    --train.batch_size 128 --train.micro_batch_size 1 --train.max_epochs 1 --train.seed 42
    --adam.lr 5e-7 --adam.betas 0.9 0.95 --adam.weight_decay 0 --max_norm 1.0
    --lr_scheduler cosine_with_min_lr --lr_warmup_ratio 0.03 --min_lr_ratio 0.1
    --data.apply_chat_template --data.max_len 131072 --data.dataset "$DATA/preference"
    --model.gradient_checkpointing_enable
    --ds.zero_stage 3 --ds.param_dtype bf16 --ds.attn_implementation flash_attention_2
    --ds.packing_samples --ds.ring_attn_size 8 --ds.ring_attn_head_stride 2
    --ckpt.load_enable --ckpt.save_steps 20
)

deepspeed --module openrlhf.cli.train_sft "${common[@]}" \
    --model.model_name_or_path "$MODEL" \
    --data.input_key prompt --data.output_key chosen \
    --ckpt.output_dir "$OUT/sft" --ckpt.path "$OUT/sft-checkpoints"

deepspeed --module openrlhf.cli.train_dpo "${common[@]}" \
    --model.model_name_or_path "$OUT/sft" --ref.model_name_or_path "$OUT/sft" --model.beta 0.1 \
    --data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected \
    --ckpt.output_dir "$OUT/dpo" --ckpt.path "$OUT/dpo-checkpoints"
