"""Checkpoints: damage is noticed and passed over, and a folder has one trainer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from made_config import resolve_config
from made_interruption import interrupt_after
from safetensors.torch import load_file

from agenticlu.cli.train import command
from agenticlu.core.errors import StoreError, TrainingError
from agenticlu.core.files import DirectoryLock
from agenticlu.training import train
from agenticlu.training.checkpoint import LOCK_NAME, MANIFEST, Checkpoints
from agenticlu.training.loop import Run
from agenticlu.training.parallel import Ranks


def config_of(rows: Path, model: Path, out: Path):
    changes = {
        "precision": "fp32", "lr": 1e-2, "batch": 4, "epochs": 1, "threads": 1, "save_every": 1,
        "validation_rows": 4, "max_steps": 3, "keep_checkpoints": 3,
        "dataset": str(rows), "model": str(model), "out": str(out),
    }  # fmt: skip
    return resolve_config("sft", changes=changes)


@pytest.fixture(scope="module")
def whole(rows: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(config_of(rows, model_folder, out))
    return out


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "export" / "model.safetensors")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.write_bytes(data)


def largest(folder: Path) -> Path:
    return max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)


def change(folder: Path, **values: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda folder: flip(largest(folder), 4000),
    "a bit of the end": lambda folder: flip(largest(folder), -1),
    "weights cut off": lambda folder: largest(folder).write_bytes(b"short"),
    "weights gone": lambda folder: largest(folder).unlink(),
    "a bit of what says where things are": lambda folder: flip(folder / ".metadata", 300),
    "manifest empty": lambda folder: (folder / MANIFEST).write_bytes(b""),
    "manifest cut off": lambda folder: (folder / MANIFEST).write_bytes(
        (folder / MANIFEST).read_bytes()[:300]
    ),
    "manifest not UTF-8": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe{"),
    "manifest a list": lambda folder: (folder / MANIFEST).write_text("[1]"),
    "manifest without settings": lambda folder: (folder / MANIFEST).write_text('{"version": 1}'),
    "manifest of another kind": lambda folder: change(folder, config=7),
    "manifest with another setting": lambda folder: change(folder, data_hash="0" * 32),
    "manifest deep": lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(
    name: str, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    found = Checkpoints(tmp_path / "checkpoints", Ranks(0, 1, torch.device("cpu"), 1), keep=3)
    said: list[str] = []
    assert found.newest(said.append) == (3, found.manifest(3))
    assert said == []
    DAMAGE[name](tmp_path / "checkpoints" / "step-3")
    newest = found.newest(said.append)
    assert newest is not None
    assert newest[0] == 2
    assert "step-3" in said[0]
    for step in (1, 2):
        DAMAGE[name](tmp_path / "checkpoints" / f"step-{step}")
    with pytest.raises(TrainingError, match="whole") as caught:
        found.newest(said.append)
    assert "start afresh" in (caught.value.hint or "")


def test_a_run_goes_on_from_the_one_before_with_the_same_weights(
    whole: Path, rows: Path, model_folder: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "export")
    (out / "summary.json").unlink()
    flip(largest(out / "checkpoints" / "step-3"), 5000)
    train(config_of(rows, model_folder, out))
    assert "resumed after step 2/3" in capsys.readouterr().err
    before, after = weights_of(whole), weights_of(out)
    assert all(torch.equal(before[name], after[name]) for name in before)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in steps if one["event"] == "step"] == [1, 2, 3]


@pytest.mark.parametrize("has_log", [True, False])
def test_a_run_that_ended_after_its_last_step_is_told_like_a_whole_one(
    has_log: bool, whole: Path, rows: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    interrupt_after(3, whole, out)
    if not has_log:
        (out / "metrics.jsonl").unlink()
    same = ("precision", "lr", "batch", "epochs", "max_steps", "save_every", "validation_rows")
    made = json.loads((out / "config.json").read_text())
    options = [one for name in same for one in ("--set", f"{name}={made[name]}")]
    arguments = ["sft", rows, "--model", model_folder, "--out", out, "--threads", 1, *options]
    done = CliRunner().invoke(command, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    before, after = (json.loads((one / "summary.json").read_text()) for one in (whole, out))
    assert after["final_loss"] == (before["final_loss"] if has_log else None)
    assert ("loss not recorded" in done.output) == (not has_log)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    told = [(one["event"], one.get("step")) for one in map(json.loads, lines)]
    assert len(set(told)) == len(told), "what is measured again stands there once"


def test_a_checkpoint_of_before_there_were_checksums_is_read(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "step-3" / MANIFEST
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in ("files", "sha256")}))
    found = Checkpoints(tmp_path / "checkpoints", Ranks(0, 1, torch.device("cpu"), 1), keep=3)
    newest = found.newest(print)
    assert newest is not None
    assert newest[0] == 3


def test_a_second_trainer_is_refused_and_leaves_everything(
    whole: Path, rows: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with DirectoryLock(out / LOCK_NAME, busy=StoreError("?")):
        with pytest.raises(StoreError, match="Another process is training"):
            Run(config_of(rows, model_folder, out)).run()
        assert [path.name for path in out.iterdir()] == [LOCK_NAME]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot write"):
        Run(config_of(rows, model_folder, tmp_path / "file" / "run")).run()
