"""The same rows in TRL."""

from __future__ import annotations

import pytest

from agenticlu.training.encode import Encoder, load_units


def test_rows_load_in_trl_with_our_ids(rows, model_folder, tokenizer, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    loaded = datasets.load_dataset(
        "json", data_files=str(rows / "preference" / "train.jsonl"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    settings = DPOConfig(
        output_dir=str(tmp_path / "out"), bf16=False, activation_checkpointing=False, use_cpu=True,
        max_length=None, report_to=[],
    )  # fmt: skip
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model_folder), args=settings,
        train_dataset=loaded.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
    )  # fmt: skip
    units, _ = load_units(rows, Encoder(tokenizer), "dpo", "train", max_tokens=4000)
    assert len(trainer.train_dataset) == len(units)
    for unit, row in zip(units, trainer.train_dataset, strict=True):
        for trace, side in zip(unit.traces, ("chosen_ids", "rejected_ids"), strict=True):
            theirs = row["prompt_ids"] + row[side]
            ours = trace.ids.tolist()
            assert theirs[: len(ours)] == ours
            assert len(row["prompt_ids"]) == trace.spans[0][0]
