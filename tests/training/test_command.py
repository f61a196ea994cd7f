from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import agenticlu
from agenticlu.cli.train import command, newest_sft_run
from agenticlu.core.errors import ConfigError, TrainingError, UsageError

QUICK = ["--set", "validation_rows=0", "--batch", "12", "--threads", "1", "--precision", "fp32"]


def call(*arguments: object) -> str:
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_sft_then_dpo_from_the_newest_run(rows, model_folder, tmp_path) -> None:
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    out = call("sft", rows, "--model", model_folder, "--out", sft, "--json", *QUICK)
    assert json.loads(out)["steps"] == 1
    assert newest_sft_run(tmp_path) == sft
    text = call("dpo", rows, "--out", dpo, *QUICK)
    assert "dpo: 1 steps, loss 0.6931" in text
    assert (dpo / "export" / "config.json").is_file()
    assert json.loads((dpo / "config.json").read_text())["model"] == str(sft)


def test_the_lora_preset_trains_the_bundled_model(rows, tmp_path) -> None:
    """In bf16, whose rounding differs between this model's own kernels by a quarter of a nat."""
    sft, dpo = tmp_path / "sft", tmp_path / "dpo"
    model = Path(agenticlu.__file__).parent / "demo" / "model"
    few = ["--preset", "lora", "--threads", "1", "--set", "validation_rows=0", "--max-steps", "1"]
    call("sft", rows, "--model", model, "--out", sft, *few)
    text = call("dpo", rows, "--sft", sft, "--out", dpo, *few)
    assert "dpo: 1 steps, loss 0.69" in text
    start = json.loads((dpo / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < start["probe_nat"] < 2 * start["probe_own_nat"]


def test_dpo_without_an_sft_result_says_what_to_type(rows, model_folder, tmp_path) -> None:
    with pytest.raises(TrainingError, match="contains none") as caught:
        call("dpo", rows, "--out", tmp_path / "dpo")
    assert "--from MODEL" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="not both"):
        call("dpo", rows, "--out", tmp_path / "dpo", "--sft", tmp_path, "--from", model_folder)
    call("dpo", rows, "--out", tmp_path / "dpo", "--from", model_folder, *QUICK)
    assert "not an SFT result" in (tmp_path / "dpo" / "export" / "README.md").read_text()


def test_plan_prints_sharing_and_what_would_fit(rows, model_folder, tmp_path) -> None:
    text = call("plan", rows, "--model", model_folder, "--out", tmp_path / "x")
    assert "tokens in / stored" in text
    arguments = ["plan", rows, "--model", model_folder, "--out", tmp_path / "x", "--json"]
    plan = json.loads(call(*arguments, "--device", "H200", "--memory-gib", "0.001"))
    assert plan["sharing"] > 1.5
    assert plan["flop_ratio"] > 1.2
    assert not plan["fits"]
    assert plan["would_fit"]
    assert plan["hours_at_ceiling"] > 0
    unwritten = [one for one in arguments if one not in ("--out", tmp_path / "x")]
    assert json.loads(call(*unwritten))["steps"] == plan["steps"]
    dry = call("sft", rows, "--model", model_folder, "--dry-run", "--json")
    assert json.loads(dry)["steps"] == plan["steps"]
    roomy = json.loads(call(*arguments, "--memory-gib", "8"))
    assert roomy["fits"]
    assert not (tmp_path / "x").exists(), "a plan writes nothing"
    alone = json.loads(call(*arguments, "-m", "1"))
    assert alone["sharing"] == 1.0 < plan["sharing"]


def test_a_run_that_cannot_fit_is_refused(rows, model_folder, tmp_path, monkeypatch) -> None:
    from agenticlu.training import budget

    arguments = ["plan", rows, "--model", model_folder, "--out", tmp_path / "x", "--json", *QUICK]
    needed = json.loads(call(*arguments))["memory_total_gib"] * 2**30
    monkeypatch.setattr(budget, "available_memory", lambda device, world: int(needed) - 1000)
    with pytest.raises(TrainingError, match=r"needs about .* GiB of the 0\.0 GiB") as caught:
        call("sft", rows, "--model", model_folder, "--out", tmp_path / "x", *QUICK)
    assert "This would fit: --checkpointing full" in (caught.value.hint or "")


def test_misspelt_settings_and_missing_data(rows, model_folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match="Unknown key 'bta'"):
        call("dpo", rows, "--from", model_folder, "--out", tmp_path / "x", "--set", "bta=1")
    with pytest.raises(UsageError, match="was not found"):
        call("sft", tmp_path / "none", "--model", model_folder, "--out", tmp_path / "x")
    with pytest.raises(UsageError, match="No model to start from"):
        call("sft", rows, "--out", tmp_path / "x")


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from agenticlu.cli import train; "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_documented_scripts_are_valid_shell() -> None:
    scripts = sorted((Path(__file__).parents[2] / "runs").glob("train_*.sh"))
    assert len(scripts) >= 4
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)


def commands_of(text: str) -> list[list[str]]:
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        _, separator, rest = line.partition("agenticlu train ")
        if separator and not line.startswith(("`", "#", "|")) and "sft|dpo" not in line:
            found.append(shlex.split(rest, comments=True))
    return found


@pytest.mark.parametrize("name", ["docs/training.md", "runs/train_one_gpu.sh"])
def test_documented_commands_are_understood(name) -> None:
    commands = commands_of((Path(__file__).parents[2] / name).read_text(encoding="utf-8"))
    assert len(commands) >= 3
    for words in commands:
        subcommand = command.commands[words[0]]
        subcommand.make_context(words[0], words[1:])
    with pytest.raises(click.UsageError):
        command.commands["sft"].make_context("sft", ["DATA", "--modle", "x"])


def test_training_without_pytorch_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from agenticlu.core.errors import MissingDependencyError\n"
        "from agenticlu.training import plan_run, train\n"
        "from agenticlu.training.config import TrainConfig\n"
        "for call in (train, plan_run):\n"
        "    try:\n"
        "        call(TrainConfig())\n"
        "    except MissingDependencyError as error:\n"
        "        print(error.exit_code, error.message, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    line = "7 This needs the package 'torch', which is not installed. "
    assert done.stdout == 2 * f"{line}pip install 'agenticlu[train]'\n", done.stderr
