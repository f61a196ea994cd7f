"""`agenticlu loop`: a model teaches itself on a corpus, and is evaluated before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from agenticlu.cli.options import operand, require, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import DocumentError, UsageError
from agenticlu.core.printing import echo
from agenticlu.core.settings import Positive, Settings, Spelling, TokenCount

if TYPE_CHECKING:
    from agenticlu.loop import LoopPlan


class LoopSettings(Settings):
    """Settings of `agenticlu loop`."""

    model: Annotated[str | None, Spelling(metavar="FOLDER")] = None
    """Model to teach: a folder in Hugging Face layout, or a hub id."""
    out: Annotated[Path | None, Spelling(metavar="DIR")] = None
    """Folder of the loop; run again to resume."""
    rounds: Positive = 1
    """Times that the model is taught; each searches with what the last one taught."""
    held_out: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Corpus to evaluate on; its documents and questions, near-copies too, are left out of the
    training data. Default: a tenth of the documents, which no training sees."""
    lengths: Annotated[tuple[TokenCount, ...], Spelling(metavar="TOKENS")] = ()
    """Tokens of a document in the evaluation, others of the corpus around it. Default: as is."""
    limit: Positive | None = None
    """Maximum questions to search."""
    items: Positive | None = None
    """Maximum questions to evaluate on, per length."""
    branching: Positive | None = None
    """Clarifications sampled at a node. Default: that of agenticlu generate."""
    depth: Positive | None = None
    """Rounds of a dialogue, in search and evaluation. Default: that of agenticlu generate."""
    piece_tokens: Annotated[int, Spelling(metavar="N")] | None = None
    """Maximum tokens of a paragraph. Default: what suits the model, else 512."""
    then: Literal["dpo", "distill", "none"] = "dpo"
    """Stage after fine-tuning: preferences, distillation from evidence, or none."""
    guide: bool = False
    """Guide the first search (agenticlu generate --guide), for a model that cannot hold the
    dialogue yet, and teach direct answers beside dialogues."""
    necessity: bool = True
    """Find the pieces that right rounds need (agenticlu generate necessity)."""
    preset: str | None = None
    """Preset of agenticlu train, such as lora."""
    dry_run: bool = False
    """Print the commands and the price of the first search; run nothing."""


@settings_command(LoopSettings, "loop", extra="demo")
@operand("corpus")
def command(resolved: Resolved[LoopSettings], corpus: str) -> None:
    """Search CORPUS, build data, train and evaluate, and again from the trained model.

    Each stage is printed as the command that runs it; what a flag here does not say comes from the
    configuration of that command ([generate], [train], [eval]). A stage that was stopped goes on,
    one that finished is not repeated. The last table sets every model against the first.
    """
    from agenticlu.cli import group
    from agenticlu.loop import build_stages, render_results
    from agenticlu.loop.stages import run_stages

    plan = _build_plan(resolved.values, corpus)

    def invoke(argv: Sequence[str]) -> None:
        group.main(list(argv), prog_name="agenticlu", standalone_mode=False)

    stages = build_stages(plan)
    price = ["plan", *stages[0].argv()[2:]]
    at = price.index("--out")
    del price[at : at + 2]
    if not plan.out.exists() or resolved.values.dry_run:
        echo(f"The first of {plan.rounds} searches would cost:")
        invoke(price)
    if resolved.values.dry_run:
        echo("\n".join(("", *(stage.title for stage in stages))))
        return
    seconds = run_stages(plan.out, stages, invoke, echo)
    echo(f"\n{render_results(plan)}")
    report = plan.out / "report.html"
    echo(f"\nAll stages took {sum(seconds.values()):.0f} s. Look at {report}")


def _build_plan(settings: LoopSettings, corpus: str) -> LoopPlan:
    from agenticlu.engines.models import find_model, is_hub_id
    from agenticlu.loop import LoopPlan

    example = "agenticlu loop CORPUS --model FOLDER --out DIR"
    model = require(settings.model, "--model", example)
    if not is_hub_id(model):  # one of the hub is fetched by the first stage
        find_model(model)
    out = require(
        settings.out or (Path("loop-run") if settings.dry_run else None), "--out", example
    )
    if out.is_file():
        raise UsageError(f"--out {out} is a file, not a folder.", hint="Give another --out.")
    return LoopPlan(
        corpus=corpus,
        model=model,
        out=out,
        rounds=settings.rounds,
        held_out=settings.held_out,
        keep_apart=settings.held_out is not None and _can_compare(settings.held_out),
        lengths=settings.lengths,
        then=settings.then,
        guide=settings.guide,
        necessity=settings.necessity,
        search=_flags(
            limit=settings.limit,
            branching=settings.branching,
            depth=settings.depth,
            piece_tokens=settings.piece_tokens,
        ),
        train=_flags(preset=settings.preset),
        evaluate=_flags(
            limit=settings.items, rounds=settings.depth, piece_tokens=settings.piece_tokens
        ),
    )


def _can_compare(held_out: str) -> bool:
    """Whether the documents of a corpus to evaluate on can be told from those to train on."""
    from agenticlu.data.overlap import load_evaluation

    try:
        load_evaluation([held_out])
    except DocumentError as error:
        echo(f"What is trained on is not compared with --held-out: {error.message}", err=True)
        return False
    return True


def _flags(**values: object) -> tuple[str, ...]:
    """Returns the flags of those settings that were given."""
    given = ((name, value) for name, value in values.items() if value is not None)
    return tuple(w for name, value in given for w in (f"--{name.replace('_', '-')}", str(value)))
