"""Beside TRL on the same rows, model and machine: time of a step, loss before any update.

    python benchmarks/trl_comparison.py --prefix 2048 --traces 8

TRL gets its best settings for a CPU (no bf16, no checkpointing, no truncation): with its defaults
it is an order of magnitude slower, and the ratio would not be honest. Each row is a prompt and a
completion; a step is all rows of one document. Both sides run one thread and count the time of
this process. TRL's DPO computes the reference in every step; ours once, and the table shows ours
with and without that pass.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import agenticlu
from agenticlu.training.loop import Run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from made_config import resolve_config

TOKENIZER = Path(agenticlu.__file__).parent / "demo" / "model"


def make_model(folder: Path) -> Any:
    """Writes the benchmark's model, with the bundled tokenizer; returns the tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=32_768,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def text_of(tokenizer: Any, generator: np.random.Generator, tokens: int) -> str:
    """Returns text of about that many tokens."""
    words = [tokenizer.decode([i]) for i in range(300, 900)]
    words = [word.strip() for word in words if word.strip().isalpha()]
    text = " ".join(generator.choice(words, tokens))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    result: str = tokenizer.decode(ids)
    return result


def write_rows(folder: Path, tokenizer: Any, prefix: int, traces: int, length: int) -> None:
    """Writes one document's rows: `traces` for SFT, half as many pairs for DPO."""
    generator = np.random.default_rng(0)
    prompt = [{"role": "user", "content": text_of(tokenizer, generator, prefix)}]

    def reply() -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text_of(tokenizer, generator, length)}]

    sft = [{"document_id": "d", "prompt": prompt, "completion": reply()} for _ in range(traces)]
    pairs = [
        {"document_id": "d", "prompt": prompt, "chosen": reply(), "rejected": reply()}
        for _ in range(traces // 2)
    ]
    for name, rows in (("sft", sft), ("preference", pairs)):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )


def ours(stage: str, rows: Path, model: Path, out: Path, steps: int) -> dict[str, float]:
    """Runs our steps; returns the first loss, the seconds of a step and of the reference."""
    config = resolve_config(
        stage,
        changes={
            "dataset": str(rows), "model": str(model), "out": str(out), "precision": "fp32",
            "batch": 64, "traces_per_trie": 64, "epochs": steps, "lr": 1e-5, "warmup": 0.0,
            "lr_floor": 1.0, "clip": 1e9, "sft_loss": "per-token", "threads": 1,
            "validation_rows": 0, "from_base": True,
        },
    )  # fmt: skip
    run = Run(config)
    run.load_rows()
    run.load_model()
    reference_s = 0.0
    if stage == "dpo":
        start = time.process_time()
        run.load_reference()
        reference_s = time.process_time() - start
    losses, seconds = [], []
    for index in range(steps):
        start = time.process_time()
        losses.append(float(run.run_step(index)["loss"]))
        seconds.append(time.process_time() - start)
    return {
        "loss_0": losses[0], "loss_last": losses[-1], "step_s": min(seconds),
        "reference_s": reference_s,
    }  # fmt: skip


def theirs(stage: str, rows: Path, model: Path, out: Path, steps: int) -> dict[str, float]:
    """Runs TRL's steps on the same rows."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    lines = (rows / {"sft": "sft", "dpo": "preference"}[stage] / "train.jsonl").read_text()
    loaded = [json.loads(line) for line in lines.splitlines()]
    for row in loaded:
        del row["document_id"]
    data = datasets.Dataset.from_list(loaded)
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.process_time() - self.start)

    common: dict[str, Any] = {
        "output_dir": str(out), "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": len(loaded), "max_steps": steps, "learning_rate": 1e-5,
        "lr_scheduler_type": "constant", "max_grad_norm": 1e9, "adam_beta2": 0.95,
        "bf16": False, "activation_checkpointing": False, "use_cpu": True, "max_length": None,
        "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if stage == "sft":
        trainer = SFTTrainer(
            weights, args=SFTConfig(**common), train_dataset=data, processing_class=tokenizer,
            callbacks=[Clock()],
        )  # fmt: skip
    else:
        trainer = DPOTrainer(
            weights, args=DPOConfig(**common, beta=0.1), train_dataset=data,
            processing_class=tokenizer, callbacks=[Clock()],
        )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"loss_0": losses[0], "loss_last": losses[-1], "step_s": min(seconds)}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--json", dest="out", type=Path, metavar="FILE")
    parser.add_argument("--prefix", type=int, default=2048)
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tokenizer = make_model(work / "model")
        write_rows(work / "rows", tokenizer, arguments.prefix, arguments.traces, arguments.length)
        for stage in ("sft", "dpo"):
            a = ours(stage, work / "rows", work / "model", work / f"ours-{stage}", arguments.steps)
            b = theirs(stage, work / "rows", work / "model", work / f"trl-{stage}", arguments.steps)
            line = {
                "stage": stage, "ours": a, "trl": b, "ratio": b["step_s"] / a["step_s"],
                "ratio_with_reference": b["step_s"] / (a["step_s"] + a["reference_s"]),
                "loss_0_difference": abs(a["loss_0"] - b["loss_0"]),
                "loss_last_difference": abs(a["loss_last"] - b["loss_last"]),
            }  # fmt: skip
            results.append(line)
            print(
                f"{stage}: TRL {b['step_s']:.2f} s, ours {a['step_s']:.2f} s "
                f"(reference {a['reference_s']:.2f} s once): {line['ratio']:.2f}x, "
                f"{line['ratio_with_reference']:.2f}x with the reference; loss before the first "
                f"update {b['loss_0']:.6f} / {a['loss_0']:.6f}, at the last step "
                f"{b['loss_last']:.6f} / {a['loss_last']:.6f}",
                flush=True,
            )
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "name": f"{one['stage']}: faster than TRL",
                "value": one["ratio"],
                "unit": "times",
                "target": None,
                "met": None,
                **{key: value for key, value in one.items() if key not in ("stage", "ratio")},
            }
            for one in results
        ]
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
