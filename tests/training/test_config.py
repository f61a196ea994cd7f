from __future__ import annotations

from pathlib import Path

import pytest
from made_config import resolve_config

from agenticlu.core.config import load_toml
from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.training.config import PRESETS, TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def test_paper_is_the_published_recipe() -> None:
    config = resolve_config("sft", preset="paper")
    assert (config.lr, config.lr_floor, config.warmup) == (5e-7, 0.1, 0.03)
    assert (config.beta1, config.beta2, config.weight_decay, config.clip) == (0.9, 0.95, 0, 1.0)
    assert (config.batch, config.epochs, config.max_tokens) == (128, 1, 131_072)
    assert (config.precision, config.sft_loss, config.seed) == ("bf16", "per-trace", 42)
    dpo = resolve_config("dpo", preset="paper")
    assert (dpo.beta, dpo.label_smoothing, dpo.dpo_loss) == (0.1, 0.0, "sigmoid")
    assert (dpo.traces_per_trie, dpo.from_base) == (8, False)
    strict = resolve_config("dpo", preset="paper-strict")
    assert (strict.traces_per_trie, strict.from_base) == (1, True)


def test_lora_has_a_rate_for_each_stage() -> None:
    sft, dpo = (resolve_config(stage, preset="lora") for stage in ("sft", "dpo"))
    assert (sft.lora_rank, sft.lora_alpha, sft.lr, dpo.lr) == (64, 128, 2e-5, 5e-6)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_every_checked_in_config_is_read(path: Path, stage: str) -> None:
    config = resolve_config(stage, file=path)
    assert load_toml(path)["preset"] in PRESETS
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_the_expected_configs_are_there() -> None:
    names = {path.stem for path in CONFIGS.glob("*.toml")}
    assert {"tiny", "paper-8b", "paper-strict", "one-gpu-lora"} <= names


def test_file_beats_preset_and_command_line_beats_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('preset = "lora"\nlr = 1e-3\nbatch = 7\n[dpo]\nlr = 1e-4\n')
    assert resolve_config("sft", file=path).lr == 1e-3
    assert resolve_config("dpo", file=path).lr == 1e-4
    changed = resolve_config("dpo", file=path, changes={"batch": 9})
    assert (changed.batch, changed.lora_rank) == (9, 64)


def test_unknown_keys_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("warmpu = 0.1\n")
    with pytest.raises(ConfigError, match=r"Unknown key 'warmpu'") as caught:
        resolve_config("sft", file=path)
    assert caught.value.hint == "Did you mean warmup?"
    with pytest.raises(UsageError, match=r"--preset papper: must be 'paper'") as caught:
        resolve_config("sft", preset="papper")
    assert "paper" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=r"batch"):
        resolve_config("sft", changes={"batch": 0})
    with pytest.raises(ConfigError, match=r"offload needs checkpointing"):
        resolve_config("sft", changes={"offload": True})
    path.write_text("lr = = 3")
    with pytest.raises(ConfigError, match=r"not valid TOML"):
        resolve_config("sft", file=path)
