"""The settings of a training run: one strict record, presets, and files that change them.

A file (TOML) may name a preset and change its keys; the command line changes keys of the file.
An unknown key is an error with a suggestion. The resolved settings are saved with the run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agenticlu.core.errors import ConfigError, did_you_mean

Precision = Literal["auto", "fp32", "bf16", "fp64"]


class TrainConfig(BaseModel):
    """Everything that decides a training run."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    stage: Literal["sft", "dpo"] = "sft"
    dataset: str = ""
    """Folder of the data set, or one file of rows."""
    model: str = ""
    """Model to start from: a folder or a hub name. For DPO, the SFT export unless `from_base`."""
    out: str = ""
    """The run's folder: export, metrics, checkpoints, caches. Nothing is written outside it."""

    # Rows.
    max_tokens: int = Field(131_072, gt=1)
    """Longest trace in tokens; longer rows are dropped and counted, never cut."""
    bad_rows: Literal["drop", "refuse"] = "drop"
    turns: Literal["all", "last"] = "all"
    """Which assistant turns of an SFT row are targets."""
    self_checks: bool = True
    """SFT also learns from DATASET/self_check: to say no where the judges do."""
    validation_rows: int = Field(512, ge=0)
    """Most rows of the validation split that an evaluation uses, traces before self-checks; 0 skips
    evaluation."""

    # Batches.
    batch: int = Field(128, gt=0)
    """Traces (SFT) or pairs (DPO) of one optimizer step."""
    traces_per_trie: int = Field(8, gt=0)
    """M: traces (DPO: pairs) of one document that enter one step together; 1 shares nothing."""
    min_shared: int = Field(16, gt=0)
    """Shared stretches shorter than this many tokens are stored once per branch."""
    epochs: int = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Stop after this many optimizer steps; None runs all epochs. The schedule fits the stop."""
    seed: int = Field(42, ge=0)

    # Optimizer.
    lr: float = Field(5e-7, gt=0)
    lr_floor: float = Field(0.1, ge=0, le=1)
    """Last learning rate as a share of `lr`."""
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps with a rising rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"

    # Losses.
    sft_loss: Literal["per-trace", "per-token"] = "per-trace"
    dpo_loss: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference in DPO."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    nll_weight: float = Field(0.0, ge=0)
    """Weight of the chosen traces' mean negative log-likelihood, added to the DPO loss."""
    from_base: bool = False
    """DPO starts from a model that is not the SFT result; stated in the log and in the card."""

    # Computation.
    precision: Precision = "auto"
    """auto: fp32 on a CPU, bf16 with fp32 master weights elsewhere."""
    attention_kernel: str = "auto"
    checkpointing: Literal["none", "full", "keep-attention"] = "none"
    offload: bool = False
    """Keep the checkpointed layer inputs in host memory."""
    edge_chunk: int = Field(2048, gt=0)
    """Edges whose logits exist at a time."""
    context_parallel: int = Field(1, gt=0)
    """Ranks that share one trie."""
    context_mode: Literal["ulysses", "gather", "ring"] = "ulysses"
    leaf_groups_tokens: int | None = Field(None, gt=0)
    """Split tries larger than this many stored tokens into groups of leaves (exact; the prefix
    is kept as keys and values). None never splits."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None leaves torch's choice."""
    compile: bool = False
    """Compile each decoder layer."""
    timeout_s: float = Field(600.0, gt=0)
    """A rank that waits longer than this for another gives up."""

    # LoRA.
    lora_rank: int = Field(0, ge=0)
    """0 trains all weights."""
    lora_alpha: int = Field(128, gt=0)
    lora_merge: bool = False
    """Export merged weights instead of the adapter."""

    # Keeping.
    save_every: int = Field(50, ge=0)
    """Optimizer steps between checkpoints; 0 keeps none."""
    keep_checkpoints: int = Field(2, gt=0)
    eval_every: int = Field(0, ge=0)
    """Optimizer steps between evaluations; 0 evaluates before the first and after the last."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.offload and self.checkpointing == "none":
            raise ValueError("offload needs checkpointing full or keep-attention")
        if self.lora_merge and not self.lora_rank:
            raise ValueError("lora_merge needs lora_rank above 0")
        return self


_PAPER: dict[str, Any] = {
    "lr": 5e-7, "lr_floor": 0.1, "warmup": 0.03, "beta1": 0.9, "beta2": 0.95,
    "weight_decay": 0.0, "clip": 1.0, "batch": 128, "epochs": 1, "max_tokens": 131_072,
    "precision": "bf16", "beta": 0.1, "label_smoothing": 0.0, "sft_loss": "per-trace", "seed": 42,
    "traces_per_trie": 8, "checkpointing": "full",
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "paper-strict": {
        **_PAPER, "traces_per_trie": 1, "from_base": True, "self_checks": False,
    },
    "lora": {
        **_PAPER, "lora_rank": 64, "lora_alpha": 128, "sft.lr": 2e-5, "dpo.lr": 5e-6,
    },
    "tiny": {
        "sft.lr": 1e-3, "dpo.lr": 1e-4, "batch": 16, "traces_per_trie": 8, "warmup": 0.1,
        "sft.epochs": 2, "precision": "fp32", "max_tokens": 16_384, "validation_rows": 64,
        "threads": 2, "save_every": 25, "keep_checkpoints": 1,
    },
}  # fmt: skip
"""Named settings. A key `sft.x` or `dpo.x` holds for that stage only. `paper` is the published
recipe with sharing (M = 8) and DPO from the SFT result; `paper-strict` shares nothing and starts
DPO from the base model, as in the published script."""


def _for_stage(values: Mapping[str, Any], stage: str) -> dict[str, Any]:
    plain = {key: value for key, value in values.items() if "." not in key}
    for key, value in values.items():
        prefix, _, name = key.partition(".")
        if name and prefix == stage:
            plain[name] = value
    return plain


def load_config_file(path: Path) -> dict[str, Any]:
    """Reads a TOML file; tables [sft] and [dpo] become keys `sft.x`, `dpo.x`.

    Raises:
        ConfigError: The file is missing or not TOML.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file {path}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("sft", "dpo") and isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def resolve_config(
    stage: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Builds the settings: preset, then file, then changes.

    Raises:
        ConfigError: An unknown preset or key, or a value that cannot be; names what is allowed.
    """
    values = load_config_file(file) if file is not None else {}
    named = values.pop("preset", None)
    preset = preset or named
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(
                f"There is no preset {preset!r}; allowed: {', '.join(PRESETS)}.",
                hint=did_you_mean(str(preset), PRESETS),
            )
        # A file's plain key beats a preset's key for the stage.
        values = {**_for_stage(PRESETS[preset], stage), **values}
    for key in values:
        prefix, _, name = key.rpartition(".")
        _check_key(name, where=str(file) if file else f"preset {preset}")
        if prefix and prefix not in ("sft", "dpo"):
            raise ConfigError(f"Unknown section {prefix!r}; allowed: sft, dpo.")
    for key in changes or {}:
        _check_key(key, where="the command line")
    merged = {**_for_stage(values, stage), **(changes or {}), "stage": stage}
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        given = f" (given: {first['input']!r})" if first["loc"] else ""
        raise ConfigError(f"Setting {name}: {first['msg']}{given}.") from error


def _check_key(key: str, where: str) -> None:
    if key not in TrainConfig.model_fields:
        raise ConfigError(
            f"Unknown setting {key!r} in {where}.",
            hint=did_you_mean(key, TrainConfig.model_fields)
            or f"Known: {', '.join(TrainConfig.model_fields)}.",
        )


def parse_setting(text: str) -> tuple[str, Any]:
    """Parses KEY=VALUE of the command line; the value is read as TOML where it can be.

    >>> parse_setting("lr=2e-5"), parse_setting("turns=last")
    (('lr', 2e-05), ('turns', 'last'))
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"A setting is KEY=VALUE; given: {text!r}.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
