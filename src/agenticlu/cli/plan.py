"""`agenticlu plan`: the settings of a search, and what it will cost before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from agenticlu.cli.options import note_bundled, note_estimate, operand, settings_command
from agenticlu.core.config import Preset, Resolved
from agenticlu.core.errors import UsageError
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import (
    JsonSettings,
    JudgeSettings,
    ModelSettings,
    Positive,
    PriceSettings,
    Settings,
    Spelling,
    select,
)
from agenticlu.search import PUBLISHED, SearchConfig

if TYPE_CHECKING:
    from agenticlu.data.corpus import LeftOut
    from agenticlu.search.adapt import Facts
    from agenticlu.search.setup import EngineChoice


THOUGHTS_NOTE = (
    "A model that thinks before it replies samples many times the tokens below; --like RUN of a "
    "small run measures how many, and --no-thinking spares them."
)


class CorpusSettings(Settings):
    """Part of a corpus."""

    limit: Positive | None = None
    """Maximum number of questions."""
    column: Annotated[tuple[str, ...], Spelling(metavar="FIELD=COLUMN")] = ()
    """Column that holds a field, such as context=text."""
    split: str = "train"
    """Split of a hub data set."""
    shard: Annotated[str | None, Spelling(metavar="I/N")] = None
    """Search only the documents of this share, counted from 0."""


class GenerateSettings(
    SearchConfig, ModelSettings, JudgeSettings, CorpusSettings, PriceSettings, JsonSettings
):
    """Settings of `agenticlu generate` and `agenticlu plan`."""

    out: Annotated[Path | None, Spelling(metavar="RUN")] = None
    """Folder of the run."""
    published: Annotated[bool, Spelling("as_published")] = False
    """Use the published algorithm, end to end; only flags change its settings."""
    dry_run: bool = False
    """Estimate the cost, as `agenticlu plan` does; ask nothing."""
    tokens_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Measured rate of computed tokens, for the estimate."""
    like: Annotated[Path | None, Spelling(metavar="RUN")] = None
    """Run folder to take reply lengths and rate from, for the estimate."""
    trees_at_once: Annotated[Positive, Spelling(aliases=("parallel",))] = 16
    """Questions searched at once, not counting those that wait for a judge."""
    concurrency: Annotated[Positive, Spelling(aliases=("in_flight",))] = 256
    """Maximum requests in flight."""
    tokens_in_flight: Positive = 400_000
    """Maximum prompt tokens in flight."""
    max_total_tokens: Annotated[Positive | None, Spelling(aliases=("max_tokens",))] = None
    """Stop after this many computed tokens."""
    retry_failed: bool = False
    """Repeat calls that failed for good before."""
    seal: Annotated[str | None, Spelling(metavar="FOLDER")] = None
    """Folder or URL (fsspec) to write sealed segments to, and to resume from."""
    seal_every: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between segments."""
    ray: Positive | None = None
    """Search with this many Ray workers; limits apply to each, --max-total-tokens to all."""
    ray_address: str | None = None
    """Address of a Ray cluster. Default: Ray on this machine."""
    quiet: bool = False
    """Show no progress."""

    def engine_choice(self) -> EngineChoice:
        """Returns which model samples."""
        from agenticlu.engines.thinking import Thinking
        from agenticlu.search.setup import EngineChoice

        thinking = Thinking(self.thinking, self.thinking_tokens)
        served = self.base_url, self.api_key_env, self.timeout, self.window
        return EngineChoice(
            self.model,
            *served,
            thinking=thinking,
            trust_remote_code=self.trust_remote_code,
            dtype=self.dtype,
        )


def find_preset(given: Mapping[str, object]) -> Preset | None:
    """Returns the settings that --as-published implies."""
    if not given.get("as_published"):
        return None
    return Preset("--as-published", PUBLISHED, beats="files")


def search_config(resolved: Resolved[GenerateSettings]) -> SearchConfig:
    """Returns the search's settings; a model's folder may say how long its pieces should be."""
    settings = resolved.values
    config = select(settings, SearchConfig)
    if config.guide and settings.base_url:
        raise UsageError(
            "--guide restricts which tokens may be sampled, which servers cannot be asked for.",
            hint="Run the model in this process: --model FOLDER, without --base-url.",
        )
    hint = settings.engine_choice().hint("piece_tokens")
    if hint is not None and resolved.origins["piece_tokens"] == "default":
        return config.model_copy(update={"piece_tokens": hint})
    return config


def corpus_source(settings: GenerateSettings, corpus: str, left_out: LeftOut) -> dict[str, Any]:
    """Returns the arguments of `load_corpus`."""
    from agenticlu.search.setup import parse_columns

    return {
        "source": corpus,
        "columns": parse_columns(settings.column),
        "split": settings.split,
        "limit": settings.limit,
        "left_out": left_out,
    }


def judge_choices(settings: JudgeSettings) -> tuple[EngineChoice, ...]:
    """Returns which models judge; several make a panel."""
    from agenticlu.engines.thinking import Thinking
    from agenticlu.search.setup import EngineChoice

    served = settings.judge_base_url, settings.judge_api_key_env, settings.timeout
    thinking = Thinking(settings.judge_thinking, settings.judge_thinking_tokens)
    trust = settings.trust_remote_code
    return tuple(
        EngineChoice(model, *served, thinking=thinking, trust_remote_code=trust)
        for model in settings.judge_model
    )


def find_facts(settings: GenerateSettings, config: SearchConfig) -> Facts:
    """Returns what is known of the engine without asking the model anything.

    A server that does not answer is done without, for an estimate.
    """
    from agenticlu.core.errors import AgenticluError
    from agenticlu.engines import read_window
    from agenticlu.engines.base import Capabilities
    from agenticlu.engines.http.probe import read_served_model
    from agenticlu.search.adapt import Facts

    window = settings.window
    folder = settings.engine_choice().folder
    if window is None and folder is not None:
        window = read_window(folder)
    elif window is None and settings.base_url and config.view == "auto":
        try:
            served = read_served_model(
                settings.base_url,
                settings.model,
                settings.api_key_env,
                timeout_s=settings.timeout,
            )
        except AgenticluError as error:
            echo(f"{error.message} The plan is made without its window.", err=True)
        else:
            window = served.context_tokens if served else None
    return Facts.of(Capabilities(context_tokens=window), config)


def show_plan(resolved: Resolved[GenerateSettings], corpus: str) -> None:
    """Prints what a search will cost; asks nothing."""
    from agenticlu.data.corpus import LeftOut, load_corpus
    from agenticlu.search.plan import build_plan, load_measured, render_plan
    from agenticlu.search.setup import check_judges, parse_shard

    settings = resolved.values
    config = search_config(resolved)
    check_judges(settings.judge_model, config.judges)
    note_bundled(settings, quiet=settings.quiet)
    measured = None if settings.like is None else load_measured(settings.like)
    rate = settings.tokens_per_s
    if rate is None and measured is not None:
        rate = measured.tokens_per_s
    prices = settings.prices(rate)
    left_out = LeftOut()
    tokenizer = settings.engine_choice().tokenizer(settings.tokenizer)
    note_estimate(settings, tokenizer, quiet=settings.quiet)
    plan = build_plan(
        load_corpus(**corpus_source(settings, corpus, left_out)),
        tokenizer,
        config,
        num_llm_judges=(max(1, len(settings.judge_model)) if "llm" in config.judges else 0),
        shard=parse_shard(settings.shard),
        measured=measured,
        facts=find_facts(settings, config),
    )
    if settings.most_thinking_tokens and measured is None:
        plan = replace(plan, notes=(*plan.notes, THOUGHTS_NOTE))
    if left_out.num_lines:
        echo(f"agenticlu: {left_out.render()}", err=True)
    if settings.as_json:
        echo_json(plan.as_dict(prices))
    else:
        echo(render_plan(plan, prices))


@settings_command(
    GenerateSettings,
    "plan",
    inherits=("generate",),
    without=("dry_run",),
    find_preset=find_preset,
)
@operand("corpus")
def command(resolved: Resolved[GenerateSettings], corpus: str) -> None:
    """Count requests, tokens, judge calls, price and time of a search over CORPUS.

    Takes the options of `agenticlu generate`, so that one command line serves both.
    """
    show_plan(resolved, corpus)
