"""`agenticlu train`: fine-tune on traces, then on pairs; or print the plan of either."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agenticlu.core.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from agenticlu.training.config import TrainConfig


@click.group("train")
def command() -> None:
    """Fine-tune on traces (sft), then on preference pairs (dpo).

    All traces of a document are trained in one pass over one shared prefix, with the gradients of
    separate training. Run the same command again to resume.
    """


def _options(function: Any) -> Any:
    options = [
        click.argument("dataset", type=click.Path()),
        click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR",
                     help="Folder of the run: export, metrics, checkpoints, caches."),
        click.option("--preset", metavar="NAME", help="tiny, paper, paper-strict or lora."),
        click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE",
                     help="TOML file of settings; may name a preset."),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                     help="Change any setting; repeatable."),
        click.option("--lr", type=float, help="Peak learning rate."),
        click.option("--epochs", type=int, help="Passes over the rows."),
        click.option("--batch", type=int, help="Traces or pairs of one optimizer step."),
        click.option("--traces-per-trie", "-m", type=int,
                     help="Traces of one document trained together (M); 1 shares nothing."),
        click.option("--max-steps", type=int, help="Stop after this many optimizer steps."),
        click.option("--max-tokens", type=int, help="Longest row; longer ones are dropped."),
        click.option("--bad-rows", type=click.Choice(["drop", "refuse"]),
                     help="What to do with rows that are too long or have nothing to learn."),
        click.option("--seed", type=int),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp64"])),
        click.option("--attention-kernel", metavar="NAME", help="auto, or one by name."),
        click.option("--checkpointing", type=click.Choice(["none", "full", "keep-attention"])),
        click.option("--context-parallel", type=int, help="Ranks that share one document."),
        click.option("--context-mode", type=click.Choice(["ulysses", "gather", "ring"])),
        click.option("--lora-rank", type=int, help="Train an adapter of this rank (PEFT)."),
        click.option("--threads", type=int, help="CPU threads."),
        click.option("--plan-only", is_flag=True, help="Print the plan and stop."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _config(
    stage: str, dataset: str, model: str | None, out: Path, given: dict[str, Any]
) -> TrainConfig:
    from agenticlu.training.config import parse_setting, resolve_config

    preset, file = given.pop("preset"), given.pop("file")
    changes = dict(parse_setting(text) for text in given.pop("settings"))
    changes |= {key: value for key, value in given.items() if value is not None}
    changes |= {"dataset": dataset, "out": str(out)} | ({"model": model} if model else {})
    if not Path(dataset).exists():
        raise UsageError(
            f"There is no data set {dataset}.",
            hint="agenticlu dataset build RUN writes one; or give a .parquet or .jsonl file.",
        )
    config = resolve_config(stage, preset=preset, file=file, changes=changes)
    if not config.model:
        raise UsageError("No model to start from.", hint="Give --model FOLDER_OR_NAME.")
    return config


def _run(stage: str, dataset: str, model: str | None, out: Path, given: dict[str, Any]) -> None:
    as_json, plan_only = given.pop("as_json"), given.pop("plan_only")
    config = _config(stage, dataset, model, out, given)
    from agenticlu.core.output_dir import check_owner
    from agenticlu.training import plan_run, train

    if plan_only:
        show_plan(plan_run(config), as_json=as_json)
        return
    check_owner(out, "train")
    summary = train(config)
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(
            f"{stage}: {summary['steps']} steps, loss {summary['final_loss']:.4f}, "
            f"sharing {summary['sharing']:.1f}x, {summary['total_s']:.0f} s; "
            f"model in {summary['export']}"
        )


@command.command("sft")
@_options
@click.option("--model", metavar="MODEL", help="Folder or hub name to start from.")
@click.option("--turns", type=click.Choice(["all", "last"]), help="Which replies are targets.")
def sft(dataset: str, model: str | None, out: Path, **given: Any) -> None:
    """Fine-tune on the conversations of DATASET; the loss is on assistant turns only."""
    _run("sft", dataset, model, out, given)


@command.command("dpo")
@_options
@click.option(
    "--sft",
    "sft_run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Finished SFT run to start from; default: the newest beside --out.",
)
@click.option(
    "--from",
    "base",
    metavar="MODEL",
    help="Start from this model instead of an SFT result; stated in the card.",
)
@click.option("--beta", type=float, help="Strength of the pull towards the reference.")
def dpo(
    dataset: str, sft_run: Path | None, base: str | None, out: Path, **given: Any
) -> None:  # fmt: skip
    """Optimise preferences on the pairs of DATASET, starting from the SFT result."""
    if sft_run is not None and base is not None:
        raise UsageError("Give --sft or --from, not both.")
    if base is not None:
        given["settings"] = (*given["settings"], "from_base=true")
        _run("dpo", dataset, base, out, given)
        return
    if sft_run is None:
        sft_run = newest_sft_run(out.absolute().parent)
        click.echo(f"starting from the newest SFT run: {sft_run}", err=True)
    if not has_export(sft_run):
        raise TrainingError(
            f"{sft_run} holds no finished SFT run: there is no {sft_run}/export.",
            hint="agenticlu train sft DATASET --model MODEL --out DIR; or --from MODEL.",
        )
    _run("dpo", dataset, str(sft_run), out, given)


@command.command("plan")
@_options
@click.option("--model", metavar="MODEL", help="Folder or hub name.")
@click.option("--stage", type=click.Choice(["sft", "dpo"]), default="sft", show_default=True)
@click.option("--ranks", type=int, help="Number of devices; default: those that run now.")
@click.option("--memory-gib", type=float, help="Memory of one device; default: this machine's.")
@click.option("--device", metavar="NAME", help="H200, H100 or A100, for a predicted time.")
def plan(
    dataset: str, model: str | None, out: Path, stage: str, ranks: int | None,
    memory_gib: float | None, device: str | None, **given: Any,
) -> None:  # fmt: skip
    """Print what training on DATASET will cost: tokens, sharing, FLOP, memory, time."""
    as_json = given.pop("as_json")
    given.pop("plan_only")
    config = _config(stage, dataset, model, out, given)
    from agenticlu.training import plan_run

    result = plan_run(config, world=ranks, memory_gib=memory_gib, device=device)
    show_plan(result, as_json=as_json)


def show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """Prints a plan for people, or as JSON."""
    if as_json:
        click.echo(json.dumps(plan))
        return
    largest = plan["largest_trie"]
    dropped = ", ".join(f"{n} {why}" for why, n in plan["dropped"].items()) or "none"
    lines = [
        ("rows", f"{plan['rows']} of {plan['documents']} documents; dropped: {dropped}"),
        ("steps", f"{plan['steps']} ({plan['tries']} tries)"),
        ("tokens in / stored", f"{plan['tokens_in']:,} / {plan['tokens_stored']:,} "
                               f"({plan['sharing']:.2f}x)"),
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
        click.echo(f"{name:34}{text}")
    if not plan["fits"]:
        click.echo(f"Does not fit. This would: {plan['would_fit']}")


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
            f"DPO starts from an SFT result, and there is none in {folder}.",
            hint="Give --sft DIR, or --from MODEL to start from a model that is not one.",
        )
    return max(found)[1]
