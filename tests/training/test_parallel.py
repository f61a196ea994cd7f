from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from families import save_model
from made_config import resolve_config
from made_interruption import interrupt_after
from safetensors.torch import load_file

from agenticlu.core.errors import TrainingError
from agenticlu.training.checkpoint import Checkpoints
from agenticlu.training.context import assign_rows, check_heads, clip, rows_in
from agenticlu.training.loop import Run, train
from agenticlu.training.parallel import start_ranks
from agenticlu.training.trie import build_plan, count_pairs

SCRIPT = Path(__file__).with_name("rank_script.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(world: int, *arguments: str) -> list[subprocess.Popen]:
    base = {
        **os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def wait_for(path: Path, processes: list[subprocess.Popen], limit_s: float = 250) -> None:
    deadline = time.monotonic() + limit_s
    while not path.exists():
        for process in processes:
            if process.poll() is not None:
                raise AssertionError(process.communicate()[0][-4000:])
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.05)


def test_four_ranks_share_a_trie(tmp_path) -> None:
    processes = start(4, str(tmp_path), "attention")
    try:
        for process in processes:
            output = process.communicate(timeout=250)[0]
            assert process.returncode == 0, output[-4000:]
    finally:
        for process in processes:
            process.kill()


def config_of(stage, rows, model, out, **changes):
    base = {
        "precision": "fp32", "lr": 1e-2, "batch": 12, "traces_per_trie": 4, "epochs": 3,
        "threads": 1, "save_every": 0, "validation_rows": 4, "warmup": 0.2, "timeout_s": 60,
        "dataset": str(rows), "model": str(model), "out": str(out),
    }  # fmt: skip
    return resolve_config(stage, changes={**base, **changes})


def first_gradient(config) -> dict[str, torch.Tensor]:
    run = Run(config)
    run.load_rows()
    run.load_model()
    if config.stage != "sft":
        run.load_reference()
    kept = {}

    def keep() -> None:
        for name, parameter in run.edges.named_parameters():
            kept[name] = parameter.grad.clone()

    run.optimizer.step = keep
    run.run_step(0)
    return kept


def steps_of(out: Path) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == "step"]


def gradient_tasks(rows, folder: Path, out: Path) -> tuple[list[str], list[dict]]:
    """First steps on two ranks, every way, and the gradient one process has for each."""
    settings = {"precision": "fp64", "validation_rows": 0, "clip": 1e6}
    texts, expected = [], []
    for stage in ("sft", "dpo", "distill"):
        config = config_of(stage, rows, folder, out / stage, **settings)
        gradient = first_gradient(config)
        for mode in (None, "ulysses", "gather", "ring"):
            changes = {"context_mode": mode, "context_parallel": 2} if mode else {}
            given = config.model_copy(update=changes)
            texts.append(json.dumps({**given.model_dump(mode="json"), "gradient": True}))
            expected.append(gradient)
    # States that branch beside windows, and rows one at a time: five tries on two ranks leave a
    # place for a dummy, which must run the model as often as a trie.
    for family, stage in (("lfm3", "sft"), ("phi3 (longrope)", "dpo")):
        model = save_model(family, out / "families" / family)
        changes = {**settings, "batch": 5, "traces_per_trie": 1, "from_base": True}
        config = config_of(stage, rows, model, out / f"{family} {stage}", **changes)
        texts.append(json.dumps({**config.model_dump(mode="json"), "gradient": True}))
        expected.append(first_gradient(config))
    return texts, expected


def largest(weights: dict[str, torch.Tensor]) -> float:
    return max(float(w.abs().max()) for w in weights.values())


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in b) / largest(b)


def check_training(rows, model_folder: Path, one: Path, two: Path, settings: dict) -> None:
    """Two ranks trained like one; their checkpoint goes on on one."""
    a, b = (load_file(path / "export" / "model.safetensors") for path in (one, two))
    assert difference(b, a) < 1e-6
    first, second = steps_of(one), steps_of(two)
    assert len(first) == len(second) == 3
    for x, y in zip(first, second, strict=True):
        assert x["tries"] == 3, "three tries on two ranks leave a place for a dummy"
        assert y["loss"] == pytest.approx(x["loss"], rel=1e-6)
        assert y["grad_norm"] == pytest.approx(x["grad_norm"], rel=1e-6)
        assert y["idle_share"] > 0 == x["idle_share"]
    assert max(x["grad_norm"] for x in first) > settings["clip"], "the clip must have acted"
    run = Run(config_of("sft", rows, model_folder, two, **settings))
    run.load_rows()
    run.load_model()
    start_weights = {n: w.clone() for n, w in run.edges.causal_lm().state_dict().items()}
    checkpoints = Checkpoints(two / "checkpoints", run.ranks, keep=2)
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.manifest(2)["world"] == 2
    checkpoints.load(2, run.updates)
    run.run_step(2)
    resumed = run.edges.causal_lm().state_dict()
    assert difference(resumed, a) < 1e-6 < difference(start_weights, a)


def check_going_on(one: Path, more: Path) -> None:
    """What one process began, two finished, with the weights of one."""
    a, b = (load_file(path / "export" / "model.safetensors") for path in (one, more))
    resumes = [json.loads(x) for x in (more / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in resumes if x["event"] == "resume"] == [2]
    assert difference(b, a) < 1e-6


def test_two_ranks(rows, model_folder, make_model, tokenizer, tmp_path) -> None:
    """Attention and gradients in every mode, training, resharding, and a rank that dies.

    One start of two processes, because starting them is most of the cost.
    """
    folder = tmp_path / "gpt2"
    make_model("gpt2", vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts, expected = gradient_tasks(rows, folder, tmp_path)
    # A large epsilon keeps AdamW from blowing rounding errors of tiny gradients up to full steps.
    settings = {"clip": 0.5, "save_every": 1, "lr": 1e-2, "adam_eps": 1e-2}
    one, two, more, endless = (tmp_path / name for name in ("one", "two", "more", "endless"))
    train(config_of("sft", rows, model_folder, one, **settings))
    texts.append(config_of("sft", rows, model_folder, two, **settings).model_dump_json())
    interrupt_after(2, one, more)
    texts.append(config_of("sft", rows, model_folder, more, **settings).model_dump_json())
    texts.append(config_of("sft", rows, model_folder, endless, epochs=4000).model_dump_json())
    processes = start(2, str(tmp_path), "attention", *texts)
    try:
        for number, gradient in enumerate(expected, 1):
            wait_for(tmp_path / f"done-{number}", processes)
            got = torch.load(tmp_path / f"gradient-{number}.pt")
            assert difference(got, gradient) < 1e-12, texts[number - 1]
        wait_for(tmp_path / f"done-{len(expected) + 1}", processes)
        check_training(rows, model_folder, one, two, settings)
        wait_for(tmp_path / f"done-{len(expected) + 2}", processes)
        check_going_on(one, more)
        wait_for(endless / "metrics.jsonl", processes)
        processes[1].kill()
        killed = time.monotonic()
        output = processes[0].communicate(timeout=100)[0]
        assert time.monotonic() - killed < 60
        assert processes[0].returncode not in (0, None)
        assert "onnection" in output or "closed" in output
    finally:
        for process in processes:
            process.kill()


def test_every_rank_gets_about_the_same_area() -> None:
    for world in (2, 4, 8):
        root = np.arange(128 * world)
        traces = [np.concatenate((root, [n, *range(n, n + 9)])) for n in range(3000, 3000 + 16)]
        plan = build_plan(traces, [np.zeros(len(t), bool) for t in traces])
        areas = [sum(map(count_pairs, clip(plan.rectangles, r))) for r in assign_rows(plan, world)]
        assert sum(areas) == plan.area
        assert max(areas) / (plan.area / world) <= 1.05
    bare = build_plan([np.arange(512)], [np.zeros(512, bool)])
    contiguous = [
        sum(map(count_pairs, clip(bare.rectangles, [(i * 128, (i + 1) * 128)]))) for i in range(4)
    ]
    assert max(contiguous) / (bare.area / 4) > 1.5


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_small_and_odd_tries_are_dealt_out(tries, world) -> None:
    for seed in range(10):
        sample = tries(seed)
        plan = build_plan(sample.traces, sample.masks)
        ranges = assign_rows(plan, world)
        assert all(ranges)
        rows = np.concatenate([rows_in(r) for r in ranges])
        assert np.array_equal(np.sort(rows), np.arange(plan.num_rows))
        keys = [sum(map(count_pairs, clip(plan.rectangles, ranges[0], r))) for r in ranges]
        assert sum(keys) == sum(map(count_pairs, clip(plan.rectangles, ranges[0])))


def test_worlds_that_do_not_fit_are_refused(monkeypatch) -> None:
    check_heads("ulysses", 8, 32, 8)
    check_heads("ulysses", 16, 32, 8)
    check_heads("ring", 3, 32, 8)
    with pytest.raises(TrainingError, match=r"32 query and 8 key heads among 3 ranks") as caught:
        check_heads("ulysses", 3, 32, 8)
    assert "2 or 4 or 8" in (caught.value.hint or "")
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(TrainingError, match=r"6 ranks cannot be divided into groups"):
        start_ranks(4)
