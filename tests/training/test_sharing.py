"""The way each model is trained: chosen, told, exact, and the same after a stop."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_config, make_model, save_model
from made_config import resolve_config
from safetensors.torch import load_file

from agenticlu.core.errors import TrainingError
from agenticlu.training import path_attention
from agenticlu.training.loop import Run, train
from agenticlu.training.model import EdgeModel, load_config
from agenticlu.training.parallel import Ranks, checkpoint_layers, decoder_layers
from agenticlu.training.probe import confirm_sharing
from agenticlu.training.separate import SeparateRows
from agenticlu.training.sharing import (
    UNSHARED,
    choose_sharing,
    count_windows,
    switch_randomness_off,
)
from agenticlu.training.trie import build_plan, dummy_plan

SETTINGS = {
    "precision": "fp32", "lr": 1e-2, "batch": 2, "traces_per_trie": 2, "threads": 1,
    "max_steps": 3, "save_every": 2, "validation_rows": 2, "from_base": True,
}  # fmt: skip


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def few_rows(make_rows, tmp_path_factory) -> Path:
    return make_rows(tmp_path_factory.mktemp("few"), documents=3, traces=2, words=30)


def config_of(stage, rows, model, out, **changes):
    base = {**SETTINGS, "dataset": str(rows), "model": str(model), "out": str(out)}
    return resolve_config(stage, changes={**base, **changes})


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "export" / "model.safetensors")


def steps_of(out: Path) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "step"]


@pytest.mark.parametrize(
    ("family", "stage"),
    [
        ("qwen3_5", "sft"), ("gpt_oss", "sft"), ("stablelm", "sft"), ("lfm2", "dpo"),
        ("phi3 (longrope)", "dpo"),
    ],
)  # fmt: skip
def test_a_run_is_stopped_and_resumed_in_the_same_bits(
    few_rows, tmp_path, monkeypatch, capfd, family, stage
) -> None:
    model = save_model(family, tmp_path / "model")
    once, twice = tmp_path / "once", tmp_path / "twice"
    train(config_of(stage, few_rows, model, once))
    told = capfd.readouterr().err
    apart = family in ("phi3 (longrope)", "stablelm")
    assert ("rows are trained one after another (exact" in told) == apart
    assert ("rows against separate" in told) == apart
    for step in steps_of(once):
        assert step["tries"] == (2 if apart else 1)
        assert (step["stored_tokens"] < step["trace_tokens"]) == (not apart)
    original = Run.run_step

    def run_step(self, index):
        if index == 2:
            raise StoppedError
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "run_step", run_step)
        with pytest.raises(StoppedError):
            train(config_of(stage, few_rows, model, twice))
    train(config_of(stage, few_rows, model, twice))
    assert [step["loss"] for step in steps_of(twice)] == [step["loss"] for step in steps_of(once)]
    expected, resumed = weights_of(once), weights_of(twice)
    start = load_file(model / "model.safetensors")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert any(not torch.equal(expected[n], start[n]) for n in expected if n in start)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mamba2", {"precision": "bf16"}),  # sums its layers in fp32
        ("zamba2", {"precision": "bf16"}),  # layers within layers
        ("nemotron_h", {"precision": "bf16", "lora_rank": 4}),  # PEFT refuses some of its layers
        ("qwen3_5", {"lora_rank": 4, "checkpointing": "keep-attention"}),
        ("gemma2", {"checkpointing": "keep-attention"}),
    ],
)
def test_adapters_and_precisions_go_with_every_way(few_rows, tmp_path, family, changes) -> None:
    model = save_model(family, tmp_path / "model")
    config = config_of("sft", few_rows, model, tmp_path / "run", save_every=0, **changes)
    summary = train(config)
    assert summary["final_loss"] < steps_of(tmp_path / "run")[0]["loss"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_there_is_nothing_to_offload_from_on_a_cpu(few_rows, model_folder, tmp_path) -> None:
    config = config_of("sft", few_rows, model_folder, tmp_path, checkpointing="full", offload=True)
    with pytest.raises(TrainingError, match=r"there is none here") as caught:
        train(config)
    assert "offload" in caught.value.hint


def test_dropout_is_off_in_training_and_back_in_the_export(few_rows, tmp_path, capfd) -> None:
    model = save_model("gpt2", tmp_path / "model", attn_pdrop=0.25)
    train(config_of("sft", few_rows, model, tmp_path / "run", max_steps=1))
    assert "gpt2: dropout is off (" in (told := capfd.readouterr().err)
    assert "attn_pdrop" in told
    stored = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert stored["attn_pdrop"] == 0.25
    again = tmp_path / "again"
    train(config_of("sft", few_rows, model, again, max_steps=1))
    one, other = weights_of(tmp_path / "run"), weights_of(again)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_is_drawn_at_random_in_training(few_rows, tmp_path) -> None:
    """Routers of experts that add noise when they train: the reference would be another model."""
    model = save_model("mixtral", tmp_path / "model", router_jitter_noise=0.3)
    settings = {"max_steps": 1, "checkpointing": "full"}
    train(config_of("dpo", few_rows, model, tmp_path / "run", **settings))
    (step,) = steps_of(tmp_path / "run")
    assert step["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_layers_are_checkpointed_in_training(tmp_path) -> None:
    model = make_model("llama")
    switch_randomness_off(model)
    checkpoint_layers(model, "full", offload=False)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    decoder_layers(model)[0].self_attn.register_forward_pre_hook(count)
    model(input_ids=torch.arange(5)[None]).logits.sum().backward()
    assert calls == 2


def test_what_is_left_out_is_told(few_rows, tmp_path, capfd) -> None:
    model = save_model("qwen3_moe", tmp_path / "model", output_router_logits=True)
    train(config_of("sft", few_rows, model, tmp_path / "run", max_steps=1))
    assert "load-balancing loss is not part of the loss" in capfd.readouterr().err
    stored = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert stored["output_router_logits"] is True


@pytest.mark.parametrize(
    ("family", "windows", "reason"),
    [
        ("llama", 0, ""),
        ("mistral", 1, ""),
        ("gemma3", 2, ""),
        ("qwen2", 0, ""),
        ("lfm3", 1, ""),
        ("llama (dynamic)", 0, "dynamic rotary embeddings"),
        ("phi3 (longrope)", 0, "longrope rotary embeddings"),
        ("llama4_text", 0, "layers of the type chunked_attention"),
    ],
)
def test_a_configuration_decides(family, windows, reason) -> None:
    config = make_config(family)
    assert count_windows(config) == windows
    assert choose_sharing(config).reason.startswith(reason)
    assert choose_sharing(config).separate == bool(reason)


def test_rows_of_growing_rotary_embeddings_do_not_depend_on_their_order() -> None:
    model = make_model("llama (dynamic)")
    longer, shorter = (torch.arange(3, 3 + n) for n in (80, 70))  # both beyond the 64 of training
    plan = build_plan(
        [longer.numpy(), shorter.numpy()], [np.zeros(n, bool) for n in (80, 70)],
        min_shared=UNSHARED,
    )  # fmt: skip
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        expected = fresh.model(input_ids=shorter[None]).last_hidden_state[0]
        at = next(s for s in plan.segments if s.end - s.start == 70)
        ids = torch.from_numpy(plan.ids_S)
        rows = SeparateRows(model, alone=True)
        for _ in range(2):
            got = rows.run(model.model, ids, plan.segments)
            assert torch.equal(got[at.start : at.end], expected)
        model.model(input_ids=longer[None])
        stale = model.model(input_ids=shorter[None]).last_hidden_state[0]
    assert not torch.equal(stale, expected), "transformers remembers the longer row"


def test_ranks_share_no_row_of_a_model_that_is_trained_row_by_row() -> None:
    model = make_model("stablelm")
    pair = Ranks(0, 1, torch.device("cpu"), context=2)  # a world of one: nobody to wait for
    with pytest.raises(TrainingError, match=r"Ranks cannot share a row") as caught:
        confirm_sharing(EdgeModel(model), "cpu", choose_sharing(model.config), pair)
    assert caught.value.hint == "Use --context-parallel 1."


def test_a_dummy_runs_the_model_as_often_as_a_pair() -> None:
    plan = dummy_plan(num_traces=2)
    assert [segment.parent for segment in plan.segments] == [None, None]
    assert len(plan.sources_E) == 0


def test_the_configuration_of_an_adapter_is_its_bases(tmp_path) -> None:
    base = save_model("llama", tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert load_config(str(adapter)).model_type == "llama"


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_attention_along_paths_is_that_of_each_trace(
    tries, monkeypatch, window, softcap, sinks
) -> None:
    monkeypatch.setattr(path_attention, "BLOCK_ROWS", 5)
    sample = tries(1)
    plan = build_plan(sample.traces, sample.masks)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    leaves = [draw(plan.num_rows, n, width) for n, width in ((4, 6), (2, 6), (2, 3))]
    leaves += [draw(4)] if sinks else []
    out = path_attention.path_attention(
        *leaves[:3], plan.segments, 0.4, window=window, softcap=softcap,
        sinks_H=leaves[3] if sinks else None,
    )  # fmt: skip
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    got = torch.autograd.grad((out * weight).sum(), leaves)

    expected = dense(plan, *leaves, window=window, softcap=softcap)
    assert float((out - expected).detach().abs().max()) < 1e-13
    for mine, theirs in zip(
        got, torch.autograd.grad((expected * weight).sum(), leaves), strict=True
    ):
        assert float((mine - theirs).abs().max()) < 1e-12


def dense(plan, q, k, v, sinks=None, *, window, softcap):
    """Attention over all rows under the mask of ancestors, written out."""
    visible = torch.zeros(plan.num_rows, plan.num_rows, dtype=torch.bool)
    for q0, q1, k0, k1, causal in plan.rectangles:
        block = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        visible[q0:q1, k0:k1] = block.tril() if causal else block
    depth = torch.from_numpy(plan.positions_S)
    if window is not None:
        visible &= depth[:, None] - depth < window
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = torch.einsum("shd,thd->hst", q, k) * 0.4
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks[:, None, None].expand(-1, len(depth), 1)), -1)
    return torch.einsum("hst,thd->shd", scores.softmax(-1)[..., : len(depth)], v)
