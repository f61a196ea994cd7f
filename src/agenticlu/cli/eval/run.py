"""`agenticlu eval run` and `table`: methods × tasks × lengths, and their tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agenticlu.cli.options import (
    CONTEXT,
    DefaultGroup,
    model_choice,
    note_bundled,
    operand,
    render_setup,
    require,
    settings_command,
)
from agenticlu.cli.termination import run_until_terminated
from agenticlu.core.config import Resolved
from agenticlu.core.errors import IncompleteRunError
from agenticlu.core.printing import echo, echo_encoded, echo_json
from agenticlu.core.settings import (
    JsonSettings,
)
from agenticlu.evaluation.config import (
    EvalSettings,
    build_config,
    find_model,
    refuse_contradictions,
)

if TYPE_CHECKING:
    from agenticlu.documents.tokens import Tokenizer
    from agenticlu.evaluation.config import EvaluationConfig, RunSettings
    from agenticlu.evaluation.records import Summary

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("eval", cls=DefaultGroup, context_settings=CONTEXT)
def command() -> None:
    """Evaluate methods on tasks at several lengths: agenticlu eval [options] --out EVAL.

    Results go to EVAL/predictions.jsonl (one line per finished item), EVAL/summary.json,
    EVAL/results.md, EVAL/results.csv, EVAL/differences.csv and, for HELMET's tasks, EVAL/helmet/.
    Running the same command again resumes it. The exit code is 9 when items failed, 130 or 143 when
    Ctrl-C or SIGTERM ended it: what is finished is summarised, and marked as incomplete.
    """


@settings_command(EvalSettings, "eval", name="run", group=command, extra="evaluate")
def run(resolved: Resolved[EvalSettings]) -> None:
    """Evaluate methods on tasks at several lengths."""
    settings = resolved.values
    if settings.list_names:
        _list_names(settings.as_json)
        return
    prepared = _prepare(resolved)
    if settings.dry_run:
        _print_plan(settings, prepared)
        return
    out = require(settings.out, "--out", "agenticlu eval --task world --out EVAL")
    summary = run_until_terminated(_run(settings, prepared, out))
    _print_summary(summary, out, settings.as_json)
    if summary.num_failed:
        raise IncompleteRunError(
            f"{summary.num_failed} of {summary.num_items} items failed; they are listed in "
            f"{out / 'results.md'}.",
            hint="Run the same command with --retry-failed. Items too long for the model need "
            "--overlong fit, and another --out.",
        )
    if summary.left_out:
        raise IncompleteRunError(" ".join(summary.left_out), hint="Choose longer lengths.")


def _prepare(resolved: Resolved[EvalSettings]) -> RunSettings:
    """Finds out what the settings need to know of the model, and checks them."""
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.evaluation.config import RunSettings, as_published_config
    from agenticlu.evaluation.run import check_config

    settings = resolved.values
    note_bundled(settings)
    facts = find_model(
        settings.model,
        settings.base_url,
        settings.api_key_env,
        settings.tokenizer,
        may_be_away=settings.dry_run,
        timeout_s=settings.timeout,
        say=say,
    )
    config = _with_corpus(resolved, build_config(settings, facts), facts.tokenizer)
    if facts.is_estimate:
        say(
            f"The tokenizer of {settings.model or 'the served model'} was not found: lengths are "
            f"estimated, at about four characters a token, and pieces have {config.piece_tokens} "
            "such tokens. With another tokenizer documents are cut elsewhere, and results cannot "
            "be compared. --tokenizer NAME counts exactly."
        )
    if settings.as_published:
        refuse_contradictions(resolved, config)
        config = as_published_config(config)
        say(
            "As published: one round, temperature 0.6 (prompting arms greedy), up to 1024 tokens "
            "a turn, HELMET's substring match first."
        )
    check_config(config)
    return RunSettings(
        config,
        load_profile(settings.profile),
        facts.tokenizer,
        context_tokens=settings.window or facts.context_tokens,
    )


def _with_corpus(
    resolved: Resolved[EvalSettings], config: EvaluationConfig, tokenizer: Tokenizer
) -> EvaluationConfig:
    """Returns the configuration with the corpus that the settings name, if they name one."""
    from agenticlu.evaluation.tasks.corpus import choose_corpus
    from agenticlu.search.setup import parse_columns

    settings, origins = resolved.values, resolved.origins
    if settings.corpus is None:
        return config
    options = {
        "corpus": settings.corpus,
        "corpus_split": settings.corpus_split,
        "corpus_columns": parse_columns(settings.column),
    }
    only, as_they_are = (origins[name] == "default" for name in ("task", "lengths"))
    only = only or set(config.tasks) == {"corpus"}
    return choose_corpus(config, options, tokenizer, only=only, as_they_are=as_they_are, say=say)


async def _run(settings: EvalSettings, prepared: RunSettings, out: Path) -> Summary:
    from agenticlu.engines.base import setup_of
    from agenticlu.evaluation.run import run_evaluation

    engine = model_choice(settings, dtype=settings.dtype).load(say)
    try:
        summary = await run_evaluation(
            prepared,
            engine,
            out,
            retry_failed=settings.retry_failed,
            patience_s=settings.patience,
            report=say,
        )
    finally:
        await engine.close()
    if (setup := setup_of(engine)).requests:
        say(render_setup(setup))
    return summary


def say(line: str) -> None:
    """Prints a line on standard error."""
    echo(line, err=True)


def _list_names(as_json: bool) -> None:
    from agenticlu.evaluation.helmet import SPECS
    from agenticlu.evaluation.methods import METHODS
    from agenticlu.evaluation.tasks import TASKS

    own = [name for name in TASKS if name not in SPECS]
    notes = {name: method.note for name, method in METHODS.items()}
    if as_json:
        echo_json({"methods": notes, "tasks": own, "helmet_tasks": list(SPECS)})
        return
    echo("Methods:")
    for name, note in notes.items():
        echo(f"  {name:26} {note}")
    echo(f"Tasks that need no download:\n  {', '.join(own)} (corpus: --corpus FILE)")
    echo(f"HELMET's data sets (--helmet-data FOLDER):\n  {', '.join(SPECS)}")


def _print_summary(summary: Summary, out: Path, as_json: bool, *, written: bool = True) -> None:
    if not written:
        say(f"{out} cannot be written: its files stay as they are.")
    if as_json:
        echo_encoded(summary.model_dump_json(indent=2))
        return
    from agenticlu.evaluation.tables import LEGEND, render_differences, render_results

    echo(render_results(summary))
    if summary.differences:
        echo("\nPaired differences, percentage points:")
        echo(render_differences(summary))
    echo("\n" + "\n".join([LEGEND, *summary.notes]))
    if written:
        echo(
            f"\nWritten: {out / 'summary.json'}, results.md, results.csv, differences.csv, "
            "predictions.jsonl"
        )


def _print_plan(settings: EvalSettings, prepared: RunSettings) -> None:
    from agenticlu.evaluation.config import CONFIG_NAME
    from agenticlu.evaluation.plan import build_plan, render_plan
    from agenticlu.evaluation.predictions import FILE_NAME, read_predictions

    prices = settings.prices(settings.tokens_per_s)
    done, config, out = {}, prepared.config, settings.out
    if out is not None and (out / FILE_NAME).is_file():
        done = read_predictions(out / FILE_NAME, warn=False)
    if not config.label and out is not None and (out / CONFIG_NAME).is_file():
        before = json.loads((out / CONFIG_NAME).read_text(encoding="utf-8"))
        if before.get("model_fingerprint") == config.model_fingerprint:
            config = config.model_copy(update={"label": before["label"]})
            prepared = replace(prepared, config=config)
    plan = build_plan(prepared, prices=prices, done=done, retry_failed=settings.retry_failed)
    if settings.as_json:
        echo_encoded(plan.model_dump_json(indent=2))
    else:
        echo(render_plan(plan))


class TableSettings(JsonSettings):
    """Settings of `agenticlu eval table`."""

    metric: str | None = None
    """Metric shown first, such as substring_exact_match. Default: each task's own."""


@settings_command(TableSettings, "eval.table", group=command)
@operand("out", type=FOLDER)
def table(resolved: Resolved[TableSettings], out: Path) -> None:
    """Rewrite the tables of a folder of results, including verdicts added since.

    Where the folder cannot be written, they are only shown.
    """
    from agenticlu.core.files import is_writable
    from agenticlu.evaluation.run import summarise_folder

    settings = resolved.values
    may_write = is_writable(out)
    summary = summarise_folder(out, settings.metric, save=may_write)
    _print_summary(summary, out, settings.as_json, written=may_write)
