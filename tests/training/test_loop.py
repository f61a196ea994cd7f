from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from made_config import resolve_config
from safetensors.torch import load_file

from agenticlu.core.errors import MissingDependencyError, ModelNotFoundError, TrainingError
from agenticlu.training import checkpoint, updates
from agenticlu.training.checkpoint import ReferenceStore, check_same_run, hash_model, hash_units
from agenticlu.training.loop import Run, train
from agenticlu.training.model import resolve_model
from agenticlu.training.parallel import stop_ranks

QUICK = {
    "precision": "fp32", "lr": 1e-2, "batch": 4, "traces_per_trie": 4, "epochs": 2, "threads": 1,
    "save_every": 0, "validation_rows": 4, "warmup": 0.2,
}  # fmt: skip


def config_of(stage, rows, model, out, **changes):
    base = {**QUICK, "dataset": str(rows), "model": str(model), "out": str(out)}
    return resolve_config(stage, changes={**base, **changes})


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "export" / "model.safetensors")


def events(out: Path, kind: str) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


@pytest.fixture(scope="module")
def sft(rows, model_folder, tmp_path_factory) -> Path:
    """A finished SFT run, with checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "sft"
    train(config_of("sft", rows, model_folder, out, save_every=2))
    return out


def files_under(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_sft_learns_logs_and_exports(sft, model_folder, tokenizer) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps = events(sft, "step")
    assert len(steps) == 6
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert steps[0]["effective_tokens_per_s"] > steps[0]["stored_tokens_per_s"]
    assert {"grad_norm", "lr", "step_s", "idle_share", "model_tflop_per_s"} <= set(steps[0])
    before, after = events(sft, "validation")
    assert (before["step"], after["step"]) == (0, 6)
    loaded = AutoModelForCausalLM.from_pretrained(sft / "export")
    assert loaded.dtype == torch.float32
    ids = torch.tensor([tokenizer.encode("who keeps the lamp")])
    trained = loaded(ids).logits
    state = weights_of(sft)
    again = AutoModelForCausalLM.from_pretrained(model_folder)
    start = again(ids).logits
    again.load_state_dict(state)
    assert torch.equal(again(ids).logits, trained)
    assert not torch.equal(start, trained)
    copied = AutoTokenizer.from_pretrained(sft / "export")
    assert copied.chat_template == tokenizer.chat_template
    assert json.loads((sft / "export" / "generation_config.json").read_text())["do_sample"] is True


def test_sft_reads_self_checks_unless_told_not_to(make_rows, model_folder, tmp_path) -> None:
    data = make_rows(tmp_path / "data")
    for split, number in (("train", 5), ("validation", 2)):
        lines = (data / "sft" / f"{split}.jsonl").read_text().splitlines()[:1] * number
        (data / "self_check").mkdir(exist_ok=True)
        (data / "self_check" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    sizes = {}
    for wanted in (True, False):
        out = tmp_path / str(wanted)
        config = config_of("sft", data, model_folder, out, self_checks=wanted, validation_rows=100)
        run = Run(config)
        run.load_rows()
        sizes[wanted] = (len(run.units), len(run.validation))
    assert sizes[True] == (sizes[False][0] + 5, sizes[False][1] + 2)
    run = Run(config_of("dpo", data, model_folder, tmp_path / "dpo", from_base=True))
    run.load_rows()
    assert len(run.units) == sizes[False][0], "pairs are as many as traces here"


def test_the_same_command_again_does_nothing(sft, rows, model_folder) -> None:
    stamp = (sft / "export" / "model.safetensors").stat().st_mtime_ns
    summary = train(config_of("sft", rows, model_folder, sft, save_every=2))
    assert summary["steps"] == 6
    assert (sft / "export" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(TrainingError, match=r"another finished run: lr was 0.01, now 0.5"):
        train(config_of("sft", rows, model_folder, sft, save_every=2, lr=0.5))


class StoppedError(Exception):
    pass


def stop_after(monkeypatch, steps: int) -> None:
    original = Run.run_step

    def run_step(self, index):
        if index >= steps:
            raise StoppedError
        return original(self, index)

    monkeypatch.setattr(Run, "run_step", run_step)


def test_resume_is_bit_equal_and_needs_the_optimizer(
    sft, rows, model_folder, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "run"
    config = config_of("sft", rows, model_folder, out, save_every=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoppedError):
            train(config)
    assert [e["step"] for e in events(out, "step")] == [1, 2, 3]
    (out / "checkpoints" / "step-4.part").mkdir()  # as a killed save leaves it
    train(config)
    assert [e["step"] for e in events(out, "step")] == [1, 2, 3, 4, 5, 6]
    assert events(out, "resume")[0]["step"] == 2
    expected, resumed = weights_of(sft), weights_of(out)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)

    other = tmp_path / "forgetful"
    config = config_of("sft", rows, model_folder, other, save_every=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoppedError):
            train(config)
    monkeypatch.setattr(
        updates, "set_state_dict",
        lambda model, optimizer, *, model_state_dict, optim_state_dict, options:
        model.load_state_dict(model_state_dict) and optimizer.state.clear(),
    )  # fmt: skip
    train(config)
    forgot = weights_of(other)
    assert not all(torch.equal(expected[name], forgot[name]) for name in expected)


def test_kill_9_then_the_same_command(sft, rows, model_folder, tmp_path) -> None:
    out = tmp_path / "run"
    script = (
        "import sys, json; from agenticlu.training.config import TrainConfig\n"
        "from agenticlu.training.loop import train\n"
        "train(TrainConfig.model_validate_json(sys.argv[1]))"
    )
    config = config_of("sft", rows, model_folder, out, save_every=2)
    process = subprocess.Popen([sys.executable, "-c", script, config.model_dump_json()])
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "step-2").exists() and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(events(out, "step"))
    assert done >= 2
    train(config)
    expected, resumed = weights_of(sft), weights_of(out)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_full_disk_keeps_the_last_good_checkpoint(
    rows, model_folder, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "run"
    config = config_of("sft", rows, model_folder, out, save_every=2)
    original, calls = checkpoint.saver.save, []

    def save(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            (Path(kwargs["checkpoint_id"]) / "__0_0.distcp").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoint.saver, "save", save)
    with pytest.raises(TrainingError, match=r"No space left.*step 2 remains") as caught:
        train(config)
    assert caught.value.exit_code == 8
    kept = [path.name for path in (out / "checkpoints").iterdir()]
    assert kept == ["step-2"]


def test_a_checkpoint_of_another_run_is_refused(
    rows, model_folder, tmp_path, make_model, make_rows, tokenizer, monkeypatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedError):
            train(config_of("sft", rows, model_folder, out, save_every=2))
    with pytest.raises(TrainingError, match=r"other settings: batch was 4, now 3"):
        train(config_of("sft", rows, model_folder, out, batch=3))
    other = tmp_path / "model"
    bigger = make_model("llama", vocabulary=len(tokenizer), intermediate_size=64)
    bigger.save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(TrainingError, match=r"of another model: .*mlp"):
        train(config_of("sft", rows, other, out))
    changed = make_rows(tmp_path / "rows", seed=9)
    run = Run(config_of("sft", changed, model_folder, out))
    run.load_rows()
    manifest = json.loads((out / "checkpoints" / "step-2" / "manifest.json").read_text())
    facts = {**manifest, "data_hash": hash_units(run.units)}
    with pytest.raises(TrainingError, match=r"trained on other rows"):
        check_same_run(manifest, facts, out)
    check_same_run(manifest, manifest, out)
    document = max(run.units[0].traces[0].pieces, key=len)
    before = hash_units(run.units)
    document[0] += 1  # far from its end
    assert hash_units(run.units) != before


def test_a_model_is_known_by_its_weights_in_a_folder_or_a_file(tmp_path) -> None:
    for name in ("model.safetensors", "m.gguf"):
        file = tmp_path / name
        given = str(file if file.suffix == ".gguf" else tmp_path)
        file.write_bytes(b"one")
        before = hash_model(given)
        file.write_bytes(b"two")
        assert hash_model(given) != before


@pytest.mark.parametrize("dpo_loss", ["sigmoid", "ipo"])
def test_dpo_starts_from_the_sft_result_with_a_zero_log_ratio(
    sft, rows, tmp_path, dpo_loss
) -> None:
    out = tmp_path / "dpo"
    train(config_of("dpo", rows, sft, out, lr=1e-3, dpo_loss=dpo_loss))
    first, *_, last = events(out, "step")
    assert first["loss"] == pytest.approx(np.log(2) if dpo_loss == "sigmoid" else 25.0, abs=1e-12)
    assert first["margin_mean"] == 0
    assert first["pairs_ordered_share"] == 0.5
    assert last["margin_mean"] > 0
    assert abs(last["loss"] - first["loss"]) > 1e-3
    before, after = events(out, "validation")
    assert before["pair_accuracy"] == 0.5
    assert after["loss"] != before["loss"]
    assert "the SFT result" in (out / "export" / "README.md").read_text()
    assert resolve_model(str(sft)) == str(sft / "export")


def test_reference_is_computed_once_and_found_by_hash(sft, rows, tmp_path, monkeypatch) -> None:
    config = config_of("dpo", rows, sft, tmp_path / "run", precision="fp64")
    run = Run(config)
    run.load_rows()
    run.load_model()
    run.load_reference()
    store = run.runner.reference
    assert store.computed == len(store) > 0
    assert all(path.stat().st_size > 0 for path in store.folder.iterdir())
    again = Run(config.model_copy(update={"traces_per_trie": 1}))
    again.load_rows()
    again.load_model()
    again.load_reference()
    assert again.runner.reference.computed == 0
    digests = [trace.digest() for unit in again.units for trace in unit.traces]
    stored = again.runner.reference.sums(digests)
    alone = [again.build_trie([number]) for number in range(len(again.units))]
    with torch.no_grad():
        online = np.concatenate([
            np.bincount(t.plan.trace_of_K, again.edges.run(t.plan, "cpu").numpy()[t.plan.edge_of_K])
            for t in alone
        ])  # fmt: skip
    assert np.abs(stored - online).max() < 1e-12 * np.abs(online).max() * 100
    unit = again.units[0].traces[0]
    moved = type(unit)(unit.pieces, ((unit.spans[0][0] + 1, unit.spans[0][1]),))
    assert unit.digest() in again.runner.reference
    assert moved.digest() not in again.runner.reference


def test_a_torn_reference_record_is_computed_again(tmp_path) -> None:
    store = ReferenceStore(tmp_path, "model")
    store.add([(b"a" * 16, -1.5), (b"b" * 16, -0.1)])
    path = next(store.folder.iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="line 3 is torn"):
        store = ReferenceStore(tmp_path, "model")
    assert list(store) == [b"a" * 16]
    store.add([(b"b" * 16, -0.1)])
    with pytest.warns(UserWarning, match="line 3 is torn"):
        store = ReferenceStore(tmp_path, "model")
    assert dict(store) == {b"a" * 16: -1.5, b"b" * 16: -0.1}
    assert not ReferenceStore(tmp_path, "other")


def first_gradient(config) -> dict[str, torch.Tensor]:
    run = Run(config)
    run.load_rows()
    run.load_model()
    generator = torch.Generator().manual_seed(5)
    for name, weight in run.edges.named_parameters():
        if "lora_B" in name:  # zero at the start, which would leave half the adapter idle
            weight.data.normal_(std=0.3, generator=generator)
    if config.stage == "dpo":
        run.load_reference()
    kept: dict[str, torch.Tensor] = {}
    step = run.optimizer.step

    def keep() -> None:
        for name, parameter in run.edges.named_parameters():
            if parameter.grad is not None:
                kept[name] = parameter.grad.clone()
        step()

    run.optimizer.step = keep  # type: ignore[method-assign]
    run.run_step(0)
    return kept


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_grouping_changes_no_gradient(stage, rows, make_model, tokenizer, tmp_path) -> None:
    folder = tmp_path / "gpt2"
    make_model("gpt2", vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = config_of(
        stage, rows, folder, tmp_path / "run", precision="fp64", batch=12, traces_per_trie=1,
        validation_rows=0, clip=1e6, nll_weight=0.1 if stage == "dpo" else 0.0,
    )  # fmt: skip
    expected = first_gradient(config)
    size = max(float(g.abs().max()) for g in expected.values())
    for changes in (
        {"traces_per_trie": 2}, {"traces_per_trie": 4}, {"traces_per_trie": 8, "min_shared": 1},
        {"traces_per_trie": 4, "leaf_groups_tokens": 150}, {"traces_per_trie": 4, "edge_chunk": 3},
    ):  # fmt: skip
        got = first_gradient(config.model_copy(update=changes))
        worst = max(float((got[n] - expected[n]).abs().max()) for n in expected)
        assert worst / size < 1e-12, changes


def test_grouping_changes_no_gradient_of_an_adapter(rows, model_folder, tmp_path) -> None:
    plain = config_of("sft", rows, model_folder, tmp_path / "run", batch=12, traces_per_trie=1,
                      validation_rows=0, clip=1e6, lora_rank=4, precision="fp64")  # fmt: skip
    expected = first_gradient(plain)
    got = first_gradient(plain.model_copy(update={"traces_per_trie": 4}))
    assert all("lora_" in name for name in expected)
    size = max(float(g.abs().max()) for g in expected.values())
    worst = max(float((got[name] - expected[name]).abs().max()) for name in expected)
    assert worst / size < 2e-6
    smallest = min(float(g.abs().max()) for g in expected.values())
    assert smallest > 0, "every part of the adapter must get a gradient"


def test_lora_trains_an_adapter_and_the_base_stays(sft, rows, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "lora"
    config = config_of("dpo", rows, sft, out, lora_rank=4, lora_alpha=8, lr=1e-2, save_every=2)
    train(config)
    steps = events(out, "step")
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-12)
    assert steps[-1]["margin_mean"] > 0
    ids = torch.tensor([[5, 6, 7, 8]])
    base = AutoModelForCausalLM.from_pretrained(sft / "export")
    expected = base(ids).logits
    adapted = PeftModel.from_pretrained(base, out / "export").eval()
    assert not torch.equal(adapted(ids).logits, expected)
    with adapted.disable_adapter():
        assert torch.equal(adapted(ids).logits, expected)
    merged = tmp_path / "merged"
    config = config_of("dpo", rows, sft, merged, lora_rank=4, lora_alpha=8, lr=1e-2, save_every=2,
                       lora_merge=True)  # fmt: skip
    train(config)
    whole = AutoModelForCausalLM.from_pretrained(merged / "export").eval()
    assert torch.allclose(whole(ids).logits, adapted(ids).logits, atol=1e-4)


def test_a_second_adapter_goes_on_top_of_the_first(rows, model_folder, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    first, second = tmp_path / "sft", tmp_path / "dpo"
    adapter = {"lora_rank": 4, "lora_alpha": 8, "max_steps": 2}
    train(config_of("sft", rows, model_folder, first, **adapter))
    assert (first / "export" / "adapter_config.json").is_file()
    train(config_of("dpo", rows, first, second, **adapter))
    steps = events(second, "step")
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-12)
    ids = torch.tensor([[5, 6, 7, 8]])
    models = [
        AutoModelForCausalLM.from_pretrained(folder)(ids).logits.detach()
        for folder in (model_folder, first / "export", second / "export")
    ]
    assert not torch.allclose(models[0], models[1])
    assert not torch.allclose(models[1], models[2])
    assert float((models[1] - models[2]).abs().max()) < float((models[0] - models[2]).abs().max())


def test_bf16_keeps_fp32_master_weights(rows, model_folder, tmp_path) -> None:
    run = Run(config_of("sft", rows, model_folder, tmp_path / "run", precision="bf16", lr=1e-6))
    run.load_rows()
    run.load_model()
    before = {
        name: weight.full_tensor().detach().clone() for name, weight in run.edges.named_parameters()
    }
    values = run.run_step(0)
    stop_ranks()
    assert np.isfinite(values["loss"])
    for name, weight in run.edges.named_parameters():
        assert weight.dtype == torch.float32
        moved = weight.to_local().detach() - before[name]
        assert 0 < float(moved.abs().max()) < 1e-5, name  # half a bf16 step is 4e-3 of a weight


def test_nothing_is_written_outside_the_runs_folder(rows, model_folder, tmp_path) -> None:
    inside = tmp_path / "deep" / "run"
    before = files_under(tmp_path) | files_under(rows) | files_under(model_folder)
    train(config_of("sft", rows, model_folder, inside, max_steps=1, save_every=1))
    after = files_under(tmp_path) | files_under(rows) | files_under(model_folder)
    assert all(inside in path.parents for path in after - before)
    assert after - before


def test_a_model_that_is_not_there(rows, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'nowhere' does not exist"):
        train(config_of("sft", rows, "./nowhere", tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"empty' is not a model folder"):
        train(config_of("sft", rows, tmp_path / "empty", tmp_path / "run"))


def test_a_loss_that_is_not_a_number_ends_the_run(rows, model_folder, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"loss of step"):
        train(config_of("sft", rows, model_folder, tmp_path / "run", lr=1e18, epochs=4))


def test_eight_bit_optimizer_names_its_package(rows, model_folder, tmp_path) -> None:
    if importlib.util.find_spec("torchao"):
        pytest.skip("torchao is installed here")
    with pytest.raises(MissingDependencyError, match=r"torchao"):
        train(config_of("sft", rows, model_folder, tmp_path / "run", optimizer="adamw8bit"))
