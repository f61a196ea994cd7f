"""`agenticlu plan`: what a search will cost, before it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from agenticlu.cli.generate import CORPUS_OPTIONS, SEARCH_OPTIONS, resolve_config, with_options


@click.command()
@click.argument("corpus")
@click.option("--model", help="Model folder, for its tokenizer; without it the bundled one.")
@click.option("--tokenizer", help="Folder or hub id; default: the model's own.")
@with_options(*SEARCH_OPTIONS, *CORPUS_OPTIONS)
@click.option("--judge-model", multiple=True, help="Models of the judge 'llm'.")
@click.option("--price-in", type=float, help="Price of a million prompt tokens.")
@click.option("--price-cached", type=float, help="Price of a million cached prompt tokens.")
@click.option("--price-out", type=float, help="Price of a million sampled tokens.")
@click.option("--tokens-per-s", type=float, help="Rate of computed tokens, as measured.")
@click.option("--like", type=click.Path(path_type=Path), help="Run folder to measure by.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    *,
    corpus: str,
    model: str | None,
    tokenizer: str | None,
    as_published: bool,
    config_file: Path | None,
    limit: int | None,
    columns: tuple[str, ...],
    split: str,
    shard: str | None,
    judge_model: tuple[str, ...],
    price_in: float | None,
    price_cached: float | None,
    price_out: float | None,
    tokens_per_s: float | None,
    like: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Count requests, tokens, judge calls, price and time of a search over CORPUS."""
    from agenticlu.core.records import Prices
    from agenticlu.data.corpus import LeftOut, load_corpus
    from agenticlu.search.plan import build_plan, load_measured, render
    from agenticlu.search.setup import EngineChoice, check_judges, parse_columns, parse_shard

    config = resolve_config(as_published, config_file, flags, model)
    check_judges(judge_model, config.judges)
    prices = Prices(price_in, price_out, price_cached, tokens_per_s)
    measured = None if like is None else load_measured(like)
    if tokens_per_s is None and measured is not None:
        prices = replace(prices, tokens_per_s=measured.tokens_per_s)
    left_out = LeftOut()
    columns_of = parse_columns(columns)
    plan = build_plan(
        load_corpus(corpus, columns=columns_of, split=split, limit=limit, left_out=left_out),
        EngineChoice(model).tokenizer(tokenizer),
        config,
        num_llm_judges=(max(1, len(judge_model)) if "llm" in config.judges else 0),
        shard=parse_shard(shard),
        measured=measured,
    )
    if left_out.num_lines:
        click.echo(f"agenticlu: {left_out.render()}", err=True)
    click.echo(json.dumps(plan.as_dict(prices), indent=2) if as_json else render(plan, prices))
