"""Settings of a training run, saved with it, and their presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agenticlu.core.config import Preset
from agenticlu.core.settings import Settings, Spelling

Precision = Literal["auto", "fp32", "bf16", "fp64"]


class TrainConfig(Settings):
    """Everything that decides a training run."""

    stage: Literal["sft", "dpo", "distill"] = "sft"
    """Stage of training."""
    dataset: str = ""
    """Folder of the data set, or one file of rows."""
    model: str = ""
    """Model to start from: a folder, a GGUF file or a hub id. For DPO, the SFT export unless
    `from_base`."""
    trust_remote_code: bool = False
    """Run code that the model's folder brings, for classes that transformers does not have."""
    out: str = ""
    """The run's folder: export, metrics, checkpoints, caches. Nothing is written outside it."""

    # Rows.
    max_tokens: Annotated[int, Spelling("max_row_tokens", aliases=("max_tokens",))] = Field(
        131_072, gt=1
    )
    """Longest trace in tokens; longer rows are dropped and counted, never cut."""
    bad_rows: Literal["drop", "refuse"] = "drop"
    """Treatment of rows that are too long or have nothing to learn."""
    turns: Literal["all", "last"] = "all"
    """Assistant turns of an SFT row that are targets."""
    self_checks: bool = True
    """SFT also learns from DATASET/self_check: to say no where the judges do."""
    validation_rows: int = Field(512, ge=0)
    """Most rows of the validation split that an evaluation uses, traces before self-checks; 0 skips
    evaluation."""

    # Batches.
    batch: int = Field(128, gt=0)
    """Traces (SFT) or pairs (DPO) of one optimizer step."""
    traces_per_trie: Annotated[int, Spelling(flags=("-m", "--traces-per-trie"))] = Field(8, gt=0)
    """M: traces (DPO: pairs) of one document that enter one step together; 1 shares nothing."""
    min_shared: int = Field(16, gt=0)
    """Shared stretches shorter than this many tokens are stored once per branch."""
    epochs: int = Field(1, gt=0)
    """Passes over the rows."""
    max_steps: int | None = Field(None, gt=0)
    """Stop after this many optimizer steps; the schedule fits the stop. Default: all epochs."""
    seed: int = Field(42, ge=0)
    """Seed of the order of rows and of new weights."""

    # Optimizer.
    lr: float = Field(5e-7, gt=0)
    """Peak learning rate."""
    lr_floor: float = Field(0.1, ge=0, le=1)
    """Last learning rate as a share of `lr`."""
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps with a rising rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """Optimizer; adamw8bit keeps its state in 8 bits."""

    # Losses.
    sft_loss: Literal["per-trace", "per-token"] = "per-trace"
    """Mean over traces of each trace's mean, or over all target tokens; also of distillation."""
    dpo_loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """Preference loss."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference in DPO."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round."""
    nll_weight: float = Field(0.0, ge=0)
    """Weight of the chosen traces' mean negative log-likelihood, added to the DPO loss."""
    teacher_tokens: int = Field(32, gt=0)
    """Distillation: likeliest tokens by which the teacher is kept; all others count as one."""
    from_base: bool = False
    """DPO starts from a model that is not the SFT result; stated in the log and in the card."""

    # Computation.
    precision: Precision = "auto"
    """auto: fp32 on a CPU, bf16 with fp32 master weights elsewhere."""
    attention_kernel: str = "auto"
    """Kernel of the attention; auto takes the first that works here."""
    checkpointing: Literal["none", "full", "keep-attention"] = "none"
    """Activations computed again in the backward pass."""
    offload: bool = False
    """Keep the checkpointed layer inputs in host memory."""
    edge_chunk: int = Field(2048, gt=0)
    """Edges whose logits are in memory at once."""
    shard: Literal["fsdp", "zero2", "zero3"] = "fsdp"
    """Engine that shards the model over ranks: FSDP2, or DeepSpeed's ZeRO stage 2 or 3."""
    context_parallel: int = Field(1, gt=0)
    """Ranks that share one trie."""
    context_mode: Literal["ulysses", "gather", "ring"] = "ulysses"
    """Method by which those ranks share it."""
    leaf_groups_tokens: int | None = Field(None, gt=0)
    """Split tries larger than this many stored tokens into groups of leaves (exact; the prefix
    is kept as keys and values). None never splits."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None leaves torch's choice."""
    compile: bool = False
    """Compile each decoder layer."""
    timeout_s: float = Field(600.0, gt=0)
    """Seconds a rank waits for another before giving up."""

    # LoRA.
    lora_rank: int = Field(0, ge=0)
    """Rank of the LoRA adapter; 0 trains all weights."""
    lora_alpha: int = Field(128, gt=0)
    """Scale of the adapter: alpha / rank."""
    lora_merge: bool = False
    """Export merged weights instead of the adapter."""

    # Keeping.
    save_every: int = Field(50, ge=0)
    """Optimizer steps between checkpoints; 0 saves none."""
    keep_checkpoints: int = Field(2, gt=0)
    """Newest checkpoints kept."""
    eval_every: int = Field(0, ge=0)
    """Optimizer steps between evaluations; 0 evaluates before the first and after the last."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers that also receive the metrics."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.offload and self.checkpointing == "none":
            raise ValueError("offload needs checkpointing full or keep-attention")
        if self.lora_merge and not self.lora_rank:
            raise ValueError("lora_merge needs lora_rank above 0")
        if self.leaf_groups_tokens is not None and self.stage == "distill":
            raise ValueError("leaf_groups_tokens is for sft and dpo, not for distill")
        if self.shard != "fsdp":
            self._check_deepspeed()
        return self

    def _check_deepspeed(self) -> None:
        """Refuses what DeepSpeed does not do.

        Raises:
            ValueError: Names the setting.
        """
        if self.precision == "fp64":
            raise ValueError(f"shard {self.shard} keeps master weights in fp32; fp64 needs fsdp")
        if self.optimizer != "adamw":
            raise ValueError(f"shard {self.shard} updates with adamw; {self.optimizer} needs fsdp")
        if self.compile:
            raise ValueError(f"compile needs shard fsdp, not {self.shard}")
        if self.leaf_groups_tokens is not None:
            raise ValueError(
                f"leaf_groups_tokens needs one process and shard fsdp, not {self.shard}"
            )


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
        "distill.lr": 1e-5,
    },
    "tiny": {
        "sft.lr": 1e-3, "dpo.lr": 1e-4, "distill.lr": 2e-4, "batch": 16, "traces_per_trie": 8,
        "warmup": 0.1, "sft.epochs": 2, "precision": "fp32", "max_tokens": 16_384,
        "validation_rows": 64, "threads": 2, "save_every": 25, "keep_checkpoints": 1,
    },
}  # fmt: skip
"""Named settings. A key `sft.x` or `dpo.x` holds for that stage only. `paper` is the published
recipe with sharing (M = 8) and DPO from the SFT result; `paper-strict` shares nothing and starts
DPO from the base model, as in the published script."""


class TrainRecipe(TrainConfig):
    """Settings of a training run and the preset that they change."""

    preset: Literal["paper", "paper-strict", "lora", "tiny"] | None = None
    """Preset for settings that are not given."""


def find_preset(given: Mapping[str, object], *, stage: str | None = None) -> Preset | None:
    """Returns the values of the preset that settings name, for a stage."""
    if (name := given.get("preset")) is None:
        return None
    preset = PRESETS[str(name)]
    prefix = f"{stage or given.get('stage') or 'sft'}."
    values = {key: value for key, value in preset.items() if "." not in key}
    values |= {
        key.removeprefix(prefix): value for key, value in preset.items() if key.startswith(prefix)
    }
    return Preset(f"preset {name}", values)
