"""Distillation from evidence: its loss, its parity with separate training, its store and rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_config import resolve_config
from made_interruption import interrupt_after
from safetensors.torch import load_file

from agenticlu.core.errors import TrainingError
from agenticlu.training import train
from agenticlu.training.distill import (
    Lesson,
    TeacherStore,
    edge_divergences,
    likeliest_tokens,
)
from agenticlu.training.loop import Run


def draw(vocabulary: int = 90):
    generator = torch.Generator().manual_seed(0)
    student, taught = (
        torch.randn(64, 8, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    weight = torch.randn(vocabulary, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    sources = torch.tensor([3, 3, 9, 40, 63, 12, 3, 8, 21])
    weights = torch.rand(9, generator=generator, dtype=torch.float64)
    return student, taught, weight, bias, sources, weights


def expected_divergence(logits, ids, logp):
    """The definition: two distributions over the kept tokens and all others together."""
    said = logits.log_softmax(-1)
    kept = said.gather(1, ids)
    inside = torch.zeros_like(said, dtype=torch.bool).scatter_(1, ids, True)
    rest = said.exp().masked_fill(inside, 0.0).sum(1)
    taught_rest = 1.0 - logp.exp().sum(1)
    return (kept.exp() * (kept - logp)).sum(1) + rest * (rest / taught_rest).log()


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.25, None), (1.0, 3.0)])
def test_divergences_and_gradients_are_those_of_the_definition(chunk, scale, cap) -> None:
    student, taught, weight, bias, sources, weights = draw()
    settings = {"bias_V": bias, "logit_scale": scale, "softcap": cap}
    ids, logp = likeliest_tokens(taught, weight, sources, 5, chunk=chunk, **settings)
    ours = [x.clone().requires_grad_() for x in (student, weight, bias)]
    theirs = [x.clone().requires_grad_() for x in (student, weight, bias)]
    settings["bias_V"] = ours[2]
    loss = edge_divergences(ours[0], ours[1], Lesson(sources, ids, logp), chunk=chunk, **settings)
    (loss * weights).sum().backward()
    logits = (theirs[0][sources] @ theirs[1].t() + theirs[2]) * scale
    logits = logits if cap is None else cap * (logits / cap).tanh()
    expected = expected_divergence(logits, ids, logp)
    (expected * weights).sum().backward()
    assert float((loss - expected).detach().abs().max()) < 1e-12
    assert float(loss.detach().min()) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.grad - b.grad).abs().max() / b.grad.abs().max()) < 1e-11


def test_all_tokens_kept_give_the_whole_divergence_and_a_teacher_alike_none() -> None:
    student, taught, weight, _, sources, _ = draw(12)
    ids, logp = likeliest_tokens(taught, weight, sources, 99)
    assert ids.shape == (9, 12)
    loss = edge_divergences(student, weight, Lesson(sources, ids, logp))
    said, wanted = ((x[sources] @ weight.t()).log_softmax(-1) for x in (student, taught))
    assert torch.allclose(loss, (said.exp() * (said - wanted)).sum(1), atol=1e-9)
    alike = edge_divergences(taught, weight, Lesson(sources, ids, logp))
    assert float(alike.abs().max()) < 1e-9


def config_of(rows, model, out, **changes):
    base = {
        "precision": "fp64", "lr": 1e-2, "batch": 12, "traces_per_trie": 4, "epochs": 2,
        "threads": 1, "save_every": 1, "validation_rows": 4, "warmup": 0.2, "teacher_tokens": 6,
        "clip": 1e6, "dataset": str(rows), "model": str(model), "out": str(out),
    }  # fmt: skip
    return resolve_config("distill", changes={**base, **changes})


def first_gradient(config) -> dict[str, torch.Tensor]:
    run = Run(config)
    run.load_rows()
    run.load_model()
    run.load_reference()
    kept = {}

    def keep() -> None:
        for name, parameter in run.edges.causal_lm().named_parameters():
            kept[name] = parameter.grad.clone()

    run.optimizer.step = keep
    run.run_step(0)
    return kept


def separate_gradient(config) -> dict[str, torch.Tensor]:
    """That of the rows one by one, by the model's own attention and whole logits."""
    from transformers import AutoModelForCausalLM

    run = Run(config)
    run.load_rows()
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float64)
    units = [run.units[n] for group in run.schedule[0] for n in group]
    for unit in units:
        (trace,), evidence = unit.traces, unit.evidence
        places, read = np.flatnonzero(trace.mask) - 1, np.flatnonzero(evidence.mask) - 1
        with torch.no_grad():
            taught = model(input_ids=torch.from_numpy(evidence.ids.astype(np.int64))[None])
            logp, ids = taught.logits[0, read].log_softmax(-1).topk(config.teacher_tokens)
        logits = model(input_ids=torch.from_numpy(trace.ids.astype(np.int64))[None]).logits
        # The store keeps fp32.
        loss = expected_divergence(logits[0, places], ids, logp.float().double())
        (loss.mean() / len(units)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def distance(got, expected) -> float:
    size = max(float(g.abs().max()) for g in expected.values())
    return max(float((got[n] - expected[n]).abs().max()) for n in expected) / size


def test_tries_of_any_size_have_the_gradient_of_separate_rows(
    rows, make_model, tokenizer, tmp_path
) -> None:
    folder = tmp_path / "gpt2"  # Llama's norms are computed in fp32
    make_model("gpt2", vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = config_of(rows, folder, tmp_path / "run")
    expected = separate_gradient(plain)
    for changes in (
        {"traces_per_trie": 1}, {"traces_per_trie": 4}, {"traces_per_trie": 8, "min_shared": 1},
        {"traces_per_trie": 4, "edge_chunk": 3},
    ):  # fmt: skip
        got = first_gradient(plain.model_copy(update=changes))
        assert distance(got, expected) < 1e-11, changes


def test_a_student_comes_closer_to_its_teacher(rows, model_folder, tmp_path) -> None:
    out = tmp_path / "run"
    summary = train(config_of(rows, model_folder, out, precision="fp32", epochs=6))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert steps[0]["divergence_nat"] > steps[-1]["divergence_nat"] > 0
    assert summary["stage"] == "distill"
    assert summary["validation_before"]["loss"] > 0
    assert "distill" in (out / "export" / "README.md").read_text()
    store = next((out / "cache" / "teacher").iterdir())
    assert len(TeacherStore(store.parent, store.name)) == 12 + 4


def test_a_run_cut_in_half_ends_in_the_same_bits(rows, model_folder, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(config_of(rows, model_folder, one, precision="fp32", epochs=3))
    interrupt_after(2, one, two)
    train(config_of(rows, model_folder, two, precision="fp32", epochs=3))
    a, b = (load_file(out / "export" / "model.safetensors") for out in (one, two))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_adapter_learns_from_the_model_without_it(rows, model_folder, tmp_path) -> None:
    """Its teacher is the model that training started from, not the one it has become."""
    train(config_of(rows, model_folder, tmp_path / "run", precision="fp32", lora_rank=4))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [e for e in map(json.loads, lines) if e["event"] == "step"]
    whole = config_of(rows, model_folder, tmp_path / "whole", precision="fp32")
    train(whole)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    first = next(e for e in map(json.loads, lines) if e["event"] == "step")
    assert steps[0]["loss"] == pytest.approx(first["loss"], rel=1e-4)


ROW = {
    "document_id": "d",
    "messages": [
        {"role": "user", "content": "the old mill and the brass key. where?"},
        {"role": "assistant", "content": "the mill"},
    ],
    "evidence": "the brass key. where?",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evidence": None}, "Row 0: evidence must be the text of the first request"),
        ({"evidence": "  "}, "Row 0: evidence must be the text of the first request"),
        ({"evidence": ["a"]}, "Row 0: evidence must be the text of the first request"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "Row 0 has no request"),
    ],
)
def test_rows_without_evidence_are_refused(changes, message, model_folder, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ROW, **changes}) + "\n")
    with pytest.raises(TrainingError, match=message):
        Run(config_of(path, model_folder, tmp_path / "run")).load_rows()


def test_a_column_that_is_missing_is_named(model_folder, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({k: v for k, v in ROW.items() if k != "evidence"}) + "\n")
    with pytest.raises(TrainingError, match="no column 'evidence'; distill rows need messages and"):
        Run(config_of(path, model_folder, tmp_path / "run")).load_rows()


def test_a_damaged_store_is_an_error_in_words(tmp_path: Path) -> None:
    store = TeacherStore(tmp_path, "hash")
    kept = np.ones((2, 3), np.int32), np.zeros((2, 3), np.float32)
    store.add([(b"one", kept), (b"two", kept)])
    again = TeacherStore(tmp_path, "hash", rank=1)
    assert set(again) == {b"one", b"two"}
    ids, logp = again.read([b"two", b"one"])
    assert ids.shape == logp.shape == (4, 3)
    (tmp_path / "hash" / "rank-2.sqlite").write_bytes(b"not a database, but long enough" * 40)
    with pytest.raises(TrainingError, match=r"rank-2\.sqlite cannot be read"):
        TeacherStore(tmp_path, "hash")
