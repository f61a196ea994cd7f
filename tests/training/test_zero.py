"""DeepSpeed beside FSDP2: the same losses and weights, and checkpoints that either goes on from."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_config import resolve_config
from made_interruption import interrupt_after
from safetensors.torch import load_file

from agenticlu.core.errors import ConfigError, MissingDependencyError
from agenticlu.training.budget import MemorySettings, ModelShape, memory_table
from agenticlu.training.loop import Run, train


def load_parallel():
    path = Path(__file__).with_name("test_parallel.py")
    spec = importlib.util.spec_from_file_location("two_ranks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two = load_parallel()
# A large epsilon keeps AdamW from blowing rounding errors of tiny gradients up to full steps.
SETTINGS = {"clip": 0.5, "save_every": 1, "adam_eps": 1e-2}


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    (path,) = (out / "export").glob("*model.safetensors")
    return {name: weight.float() for name, weight in load_file(path).items()}


def check_same(one: Path, other: Path, limit: float = 1e-6) -> None:
    """Losses and gradients of each step, and the final weights."""
    first, second = two.steps_of(one), two.steps_of(other)
    assert len(first) == len(second) == 3
    for x, y in zip(first, second, strict=True):
        assert y["loss"] == pytest.approx(x["loss"], rel=limit)
        assert y["grad_norm"] == pytest.approx(x["grad_norm"], rel=10 * limit)
    assert two.difference(weights_of(other), weights_of(one)) < limit


def check_resumed(begun: Path, resumed: Path) -> None:
    events = [json.loads(x) for x in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in events if x["event"] == "resume"] == [2]
    check_same(begun, resumed)


@pytest.fixture(scope="module")
def tied_folder(make_model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tied")
    size = {"vocabulary": len(tokenizer), "initializer_range": 0.1}
    model = make_model("llama", tie_word_embeddings=True, **size)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


KINDS = {
    "sft": {"checkpointing": "full", "weight_decay": 0.1},
    "dpo": {"context_parallel": 2, "lora_rank": 4, "from_base": True},
    "bf16": {"precision": "bf16"},
}


MOVES = [("zero2", "zero2"), ("zero3", "zero3"), ("fsdp", "zero3"), ("zero2", "fsdp")]
"""Engine of a run that is killed, and the one that goes on."""


def test_deepspeed_trains_as_fsdp2_does(rows, tied_folder, tmp_path) -> None:
    """One start of two processes, because starting them is most of the cost."""
    pytest.importorskip("deepspeed")
    texts = []

    def add(name: str, kind: str, shard: str, resumes: Path | None = None) -> Path:
        stage, out = "dpo" if kind == "dpo" else "sft", tmp_path / name
        settings = {**SETTINGS, **KINDS[kind], "shard": shard}
        config = two.config_of(stage, rows, tied_folder, out, **settings)
        origin = None if resumes is None else str(resumes)
        texts.append(json.dumps({**config.model_dump(mode="json"), "resumes": origin}))
        return out

    runs = {
        (kind, shard): add(f"{kind}-{shard}", kind, shard)
        for kind in KINDS
        for shard in ("fsdp", "zero2", "zero3")
    }
    resumed = {
        move: add("-".join(("resumed", *move)), "sft", move[1], runs["sft", move[0]])
        for move in MOVES
    }
    processes = two.start(2, str(tmp_path), *texts)
    try:
        for process in processes:
            output = process.communicate(timeout=280)[0]
            assert process.returncode == 0, output[-4000:]
    finally:
        for process in processes:
            process.kill()
    for kind, limit in (("sft", 1e-6), ("dpo", 1e-6), ("bf16", 2e-3)):
        for shard in ("zero2", "zero3"):
            check_same(runs[kind, "fsdp"], runs[kind, shard], limit)
    exact = weights_of(runs["sft", "fsdp"])
    for shard in ("zero2", "zero3"):
        assert two.difference(weights_of(runs["bf16", shard]), exact) > 1e-5, "bf16 was not used"
    for (begun, _), out in resumed.items():
        check_resumed(runs["sft", begun], out)
    check_one_process_goes_on(rows, tied_folder, runs["sft", "zero3"], tmp_path / "alone")


def check_one_process_goes_on(rows, folder: Path, begun: Path, out: Path) -> None:
    interrupt_after(2, begun, out)
    train(two.config_of("sft", rows, folder, out, **SETTINGS, **KINDS["sft"]))
    check_resumed(begun, out)


ALONE = """
import sys
from agenticlu.training import zero
from agenticlu.training.config import TrainConfig
from agenticlu.training.loop import train
zero.PERSISTENT_ELEMENTS = 0
for text in sys.argv[1:]:
    train(TrainConfig.model_validate_json(text))
"""


def test_one_process_needs_no_launcher(rows, tied_folder, tmp_path) -> None:
    """Nor do several runs in it."""
    pytest.importorskip("deepspeed")
    configs = {
        shard: two.config_of("sft", rows, tied_folder, tmp_path / shard, **SETTINGS, shard=shard)
        for shard in ("fsdp", "zero3", "zero2")
    }
    alone = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    texts = [config.model_dump_json() for config in configs.values()]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *texts], env=alone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for shard in ("zero3", "zero2"):
        check_same(tmp_path / "fsdp", tmp_path / shard)


def test_what_deepspeed_cannot_do_is_refused_before_anything_starts(monkeypatch, rows) -> None:
    for changes, words in (
        ({"precision": "fp64"}, "zero2 keeps master weights in fp32; fp64 needs fsdp"),
        ({"optimizer": "adamw8bit"}, "adamw8bit needs fsdp"),
        ({"compile": True}, "compile needs shard fsdp"),
        ({"leaf_groups_tokens": 100}, "leaf_groups_tokens needs"),
    ):
        with pytest.raises(ConfigError, match=words):
            resolve_config("sft", changes={"shard": "zero2", **changes})


def test_an_absent_deepspeed_is_told_before_the_model_is_loaded(
    monkeypatch, rows, model_folder, tmp_path
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingDependencyError, match="deepspeed") as caught:
        Run(two.config_of("sft", rows, model_folder, tmp_path, shard="zero2"))
    assert caught.value.hint == "pip install 'agenticlu[deepspeed]'"


def test_the_plan_counts_what_each_stage_keeps() -> None:
    shape = ModelShape(
        layers=32, hidden=4096, heads=32, groups=8, head_dim=128, mlp=14_336,
        vocabulary=128_256, layer_weights=7_000_000_000, total_weights=8_000_000_000,
    )  # fmt: skip

    def weights_gib(shard: str) -> float:
        settings = MemorySettings(compute_bytes=2, master_bytes=4, shards=8, context=1, shard=shard)
        return memory_table(shape, 1000, 100, settings)["weights"] / 1e9

    assert weights_gib("fsdp") == pytest.approx(4.0)
    assert weights_gib("zero3") == pytest.approx(6.0)
    assert weights_gib("zero2") == pytest.approx(20.0)
