"""`agenticlu generate controls`: how often a run's judges are right where the truth is known."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click


@click.command("controls")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Questions at most."
)
@click.option("--judge-model", multiple=True, help="Model of the judge 'llm'; several vote.")
@click.option("--judge-base-url", multiple=True, help="Server of the judges.")
@click.option(
    "--judge-api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Environment variable that holds their key.",
)
@click.option(
    "--patience", type=float, default=900.0, show_default=True, help="Seconds without a judge."
)
@click.option(
    "--timeout", type=float, default=600.0, show_default=True, help="Seconds of one request."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def controls(
    *,
    run: Path,
    limit: int,
    judge_model: tuple[str, ...],
    judge_base_url: tuple[str, ...],
    judge_api_key_env: str,
    patience: float,
    timeout: float,
    as_json: bool,
) -> None:
    """Put RUN's judges to the test: accepted answers, and answers of other questions.

    The result stands on the card of data sets built from RUN afterwards.
    """
    from agenticlu.search.setup import JudgeChoice

    choice = JudgeChoice(judge_model, judge_base_url, judge_api_key_env, timeout)
    results = asyncio.run(_run(run, limit, choice, patience))
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    for name, sides in results.items():
        right, wrong = (
            f"{side['correct']} of {side['n']}"
            + (f" ({side['unscored']} unscored)" if side["unscored"] else "")
            for side in (sides["right"], sides["wrong"])
        )
        click.echo(f"{name}: accepted answers found right {right}; others found wrong {wrong}")


async def _run(run: Path, limit: int, choice: Any, patience_s: float) -> dict[str, Any]:
    from agenticlu.judges.controls import choose_controls, judges_of, run_controls
    from agenticlu.search.run import Limits, load_run
    from agenticlu.search.setup import build_panel
    from agenticlu.search.store import Store

    def tell(text: str) -> None:
        click.echo(text, err=True)

    load_run(run)  # a folder that is no run is said before it is opened for writing
    with Store(run) as store:
        limits = Limits(patience_s=patience_s)
        panel = build_panel(choice.engines(tell), store, limits=limits, say=tell)
        try:
            judges = judges_of(store, panel)
            return await run_controls(store, judges, choose_controls(store.questions(), limit))
        finally:
            for judge in panel:
                await judge.close()
