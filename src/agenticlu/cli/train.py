"""`agenticlu train`: SFT on traces, then DPO on pairs or distillation; or plans one of them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from agenticlu.cli.options import CONTEXT, operand, require, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import TrainingError, UsageError
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import JsonSettings, Positive, Spelling, select
from agenticlu.data.teaching import require_rows
from agenticlu.training.config import TrainConfig, TrainRecipe, find_preset
from agenticlu.training.rows import Stage


class TrainSettings(TrainRecipe, JsonSettings):
    """Settings of `agenticlu train`; each command has those that concern it."""

    sft_run: Annotated[str | None, Spelling("sft", metavar="DIR")] = None
    """Finished SFT run to start from. Default: the newest beside --out."""
    base: Annotated[str | None, Spelling("from", metavar="MODEL")] = None
    """Start from this model instead of an SFT result; the card says so."""
    dry_run: Annotated[bool, Spelling(aliases=("plan_only",))] = False
    """Print the plan and stop."""
    ranks: Positive | None = None
    """Devices. Default: those that run now."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of one device in GiB. Default: this machine's."""
    device: Annotated[str | None, Spelling(metavar="NAME")] = None
    """H200, H100 or A100, for a predicted time."""


FOR_PLANS = ("ranks", "memory_gib", "device")
FOR_DPO = ("sft", "from")


@click.group("train", context_settings=CONTEXT)
def command() -> None:
    """Fine-tune on traces (sft), then on preference pairs (dpo) or evidence (distill).

    All traces of a document are trained in one pass over one shared prefix, with the gradients of
    separate training. Run the same command again to resume.
    """


def _train_command(
    stage: str | None,
    without: tuple[str, ...],
    refine: Callable[[Resolved[TrainSettings]], tuple[str, ...]] | None = None,
) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> click.Command:
        return settings_command(
            TrainSettings,
            f"train.{stage or 'plan'}",
            group=command,
            inherits=("train",),
            without=("dataset", *without),
            find_preset=functools.partial(find_preset, stage=stage),
            overrides=True,
            extra="train",
            refine=refine,
        )(operand("dataset")(function))

    return decorate


def _plan_tables(resolved: Resolved[TrainSettings]) -> tuple[str, ...]:
    """Returns the tables that a plan reads, that of its stage included."""
    return ("train", f"train.{resolved.given.get('stage', 'sft')}")


@_train_command("sft", ("stage", *FOR_PLANS, *FOR_DPO))
def sft(resolved: Resolved[TrainSettings], dataset: str) -> None:
    """Fine-tune on the conversations of DATASET; the loss is on assistant turns only."""
    _run("sft", resolved.values, dataset, resolved.values.model)


@_train_command("dpo", ("stage", "model", *FOR_PLANS))
def dpo(resolved: Resolved[TrainSettings], dataset: str) -> None:
    """Optimise preferences on the pairs of DATASET, starting from the SFT result."""
    settings = resolved.values
    if settings.sft_run is not None and settings.base is not None:
        raise UsageError("Give --sft or --from, not both.")
    if settings.base is not None:
        _run("dpo", settings.model_copy(update={"from_base": True}), dataset, settings.base)
        return
    if settings.sft_run is None:
        out = require(settings.out or None, "--out", "agenticlu train dpo DATASET --out DIR")
        run = newest_sft_run(Path(out).absolute().parent)
        echo(f"starting from the newest SFT run: {run}", err=True)
    else:
        run = Path(settings.sft_run)
    if not has_export(run):
        raise TrainingError(
            f"{run} is not a finished SFT run: {run}/export does not exist.",
            hint="agenticlu train sft DATASET --model MODEL --out DIR; or --from MODEL.",
        )
    _run("dpo", settings, dataset, str(run))


@_train_command("distill", ("stage", *FOR_PLANS, *FOR_DPO))
def distill(resolved: Resolved[TrainSettings], dataset: str) -> None:
    """Teach a model over whole documents what it says over the evidence alone.

    DATASET/distill holds its replies over whole documents and the evidence for each; at every token
    it learns to be as sure as when it reads nothing else.
    """
    _run("distill", resolved.values, dataset, resolved.values.model)


@_train_command(None, ("dry_run", *FOR_DPO), refine=_plan_tables)
def plan(resolved: Resolved[TrainSettings], dataset: str) -> None:
    """Print what training on DATASET will cost: tokens, sharing, FLOP, memory, time."""
    settings = resolved.values
    config = _build_config(settings.stage, settings, dataset, settings.model)
    from agenticlu.training import plan_run

    result = plan_run(
        config, world=settings.ranks, memory_gib=settings.memory_gib, device=settings.device
    )
    show_plan(result, as_json=settings.as_json)


def _build_config(stage: Stage, settings: TrainSettings, dataset: str, model: str) -> TrainConfig:
    if not Path(dataset).exists():
        raise UsageError(
            f"Data set {dataset} was not found.",
            hint="agenticlu dataset build RUN writes one; or give a .parquet or .jsonl file.",
        )
    if not model:
        raise UsageError("No model to start from.", hint="Give --model FOLDER_OR_NAME.")
    require_rows(dataset, stage)
    changes = {"stage": stage, "dataset": dataset, "model": model}
    return select(settings, TrainConfig).model_copy(update=changes)


def _run(stage: Stage, settings: TrainSettings, dataset: str, model: str) -> None:
    config = _build_config(stage, settings, dataset, model)
    from agenticlu.core.files import check_owner
    from agenticlu.training import plan_run, train

    if settings.dry_run:
        show_plan(plan_run(config), as_json=settings.as_json)
        return
    out = require(config.out or None, "--out", f"agenticlu train {stage} DATASET --out DIR")
    check_owner(Path(out), "train")
    summary = train(config)
    if os.environ.get("RANK", "0") != "0":
        return
    if settings.as_json:
        echo_json(summary, indent=None)
    else:
        loss = summary["final_loss"]
        echo(
            f"{stage}: {summary['steps']} steps, "
            f"loss {'not recorded' if loss is None else f'{loss:.4f}'}, "
            f"sharing {summary['sharing']:.1f}x, {summary['total_s']:.0f} s; "
            f"model in {summary['export']}"
        )


def show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """Prints a plan for people, or as JSON."""
    if as_json:
        echo_json(plan, indent=None)
        return
    largest = plan["largest_trie"]
    dropped = ", ".join(f"{n} {why}" for why, n in plan["dropped"].items()) or "none"
    lines = [
        ("rows", f"{plan['rows']} of {plan['documents']} documents; dropped: {dropped}"),
        ("steps", f"{plan['steps']} ({plan['tries']} tries)"),
        ("tokens in / stored", f"{plan['tokens_in']:,} / {plan['tokens_stored']:,} "
                               f"({plan['sharing']:.2f}x)"),
        *([("nothing is shared", plan["separate"])] if plan["separate"] else []),
        ("FLOP, separate / shared", f"{plan['flop_ratio']:.2f}x; {plan['model_pflop']:.3g} PFLOP"),
        ("largest trie", f"{largest['tokens']:,} tokens, {largest['traces']} traces, "
                         f"{largest['levels']} levels, {largest['pairs']:,} pairs, "
                         f"{largest['edges']:,} edges"),
        ("idle share", f"{plan['idle_share']:.1%} on {plan['world']} rank(s)"),
    ]  # fmt: skip
    lines += [(f"memory: {name}", f"{gib:8.2f} GiB") for name, gib in plan["memory_gib"].items()]
    available = plan["memory_available_gib"]
    total = f"{plan['memory_total_gib']:8.2f} GiB"
    lines.append(
        ("memory: together", total if available is None else f"{total} of {available:.1f}")
    )
    if plan["hours_at_ceiling"] is not None:
        lines.append(("time at the ceiling", f"{plan['hours_at_ceiling']:.2f} h (not measured)"))
    for name, text in lines:
        echo(f"{name:34}{text}")
    if not plan["fits"]:
        echo(f"Does not fit. This would: {plan['would_fit']}")


def has_export(run: Path) -> bool:
    """Whether a run has finished: its export holds a model or an adapter."""
    names = ("config.json", "adapter_config.json")
    return any((run / "export" / name).is_file() for name in names)


def newest_sft_run(folder: Path) -> Path:
    """Returns the newest finished SFT run in a folder.

    Raises:
        TrainingError: There is none.
    """
    found = []
    for path in folder.glob("*/config.json"):
        try:
            stage = json.loads(path.read_text(encoding="utf-8")).get("stage")
        except (json.JSONDecodeError, AttributeError):
            continue
        if stage == "sft" and has_export(path.parent):
            found.append(((path.parent / "export").stat().st_mtime, path.parent))
    if not found:
        raise TrainingError(
            f"DPO starts from an SFT result, but {folder} contains none.",
            hint="Give --sft DIR, or --from MODEL to start from a model that is not one.",
        )
    return max(found)[1]
