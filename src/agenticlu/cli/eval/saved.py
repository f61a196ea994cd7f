"""What `agenticlu eval` does with files that exist: scores, judges, tabulates, writes rows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from agenticlu.cli.eval.run import FILE, FOLDER, command, say
from agenticlu.cli.options import operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import IncompleteRunError, UsageError
from agenticlu.core.printing import echo, echo_encoded, echo_json
from agenticlu.core.settings import (
    THINKING_TOKENS,
    Effort,
    JsonSettings,
    Positive,
    Settings,
    Spelling,
    TimeoutSettings,
    TokenCount,
    TrustSettings,
)
from agenticlu.evaluation.config import TaskSettings


class ScoreSettings(JsonSettings):
    """Settings of `agenticlu eval score`."""

    rule: str | None = None
    """Scoring rule of all rows. Default: what each row calls for."""
    rouge: bool = False
    """Also compute ROUGE."""
    out: Annotated[Path | None, Spelling(metavar="FILE")] = None
    """JSONL file of each row's scores."""


@settings_command(ScoreSettings, "eval.score", group=command, extra="evaluate")
@operand("file", type=FILE)
def score(resolved: Resolved[ScoreSettings], file: Path) -> None:
    """Score saved predictions, without a model.

    FILE is JSONL, CSV or Parquet with `prediction` and `answers` (and perhaps `options`, `id`,
    `document_id`), a predictions.jsonl of this program, or a result file of HELMET. Rows that
    cannot be scored are counted and listed, and the exit code is then 9.
    """
    from agenticlu.core.files import write_atomically
    from agenticlu.evaluation.rescore import render_scores, score_file

    settings = resolved.values
    scored = score_file(file, rule=settings.rule, with_rouge=settings.rouge)
    if settings.out is not None:
        write_atomically(settings.out, "".join(f"{r.model_dump_json()}\n" for r in scored.rows))
    if settings.as_json:
        echo_encoded(scored.model_dump_json(indent=2, exclude={"rows"}))
    else:
        echo(render_scores(scored))
    if scored.num_unscored:
        raise IncompleteRunError(
            f"{scored.num_unscored} of {scored.num_unscored + scored.num_scored} rows could not "
            "be scored."
        )


class CollectSettings(JsonSettings):
    """Settings of `agenticlu eval collect`."""

    every: bool = False
    """Show every data set instead of the seven categories."""


@settings_command(CollectSettings, "eval.collect", group=command)
@operand("folders", nargs=-1, required=True, type=FOLDER)
def collect_results(resolved: Resolved[CollectSettings], folders: tuple[Path, ...]) -> None:
    """Put HELMET's result files (ours or its own) into HELMET's table; one folder per model."""
    from agenticlu.evaluation.helmet.results import collect, render_collected

    rows = collect(folders)
    if resolved.values.as_json:
        echo_json([row.model_dump() for row in rows])
        return
    echo(render_collected(rows, every=resolved.values.every))
    for row in rows:
        for lost in row.losses:
            echo(f"{row.model} at {row.length}, {lost}")
        if row.missing:
            say(f"{row.model} at {row.length} lacks: {', '.join(row.missing)}")


class JudgeFileSettings(TimeoutSettings, TrustSettings):
    """Settings of `agenticlu eval judge`."""

    judge_model: Annotated[str | None, Spelling(aliases=("model",))] = None
    """Folder of the judging model, or the name of a served one."""
    judge_base_url: Annotated[tuple[str, ...], Spelling(aliases=("base_url",))] = ()
    """Address of the judge's server."""
    judge_api_key_env: Annotated[str, Spelling(metavar="NAME", aliases=("api_key_env",))] = (
        "OPENAI_API_KEY"
    )
    """Environment variable that holds the judge's key."""
    judge_thinking: Effort = "auto"
    """The judge's thinking before a verdict; as --thinking of agenticlu eval."""
    judge_thinking_tokens: TokenCount = THINKING_TOKENS
    """Most tokens of the judge's thought before a verdict."""
    helmet_data: Annotated[Path | None, Spelling(metavar="FOLDER")] = None
    """Folder that holds HELMET's key points, for summaries."""
    concurrency: Positive = 8
    """Maximum rows in flight."""
    patience: Annotated[float, Field(ge=0)] = 300.0
    """Seconds without an answer before giving up on an absent or overloaded server."""


@settings_command(JudgeFileSettings, "eval.judge", group=command)
@operand("file", type=FILE)
def judge(resolved: Resolved[JudgeFileSettings], file: Path) -> None:
    """Judge the long answers or summaries of a HELMET result file with a model.

    Writes FILE-gpt4eval_o.json beside it. Rows whose verdict cannot be read stay unscored and make
    the exit code 9. The same command again asks only for the verdicts that are missing.
    """
    from agenticlu.engines import ModelChoice
    from agenticlu.engines.http.probe import read_served_model
    from agenticlu.engines.retry import with_patience
    from agenticlu.engines.thinking import Thinking
    from agenticlu.evaluation.helmet.results import find_results_folder
    from agenticlu.evaluation.rescore import MOST_LISTED, ResultJudging
    from agenticlu.evaluation.run import summarise_folder
    from agenticlu.judges.rubric import RowVerdict, RubricJudge

    settings = resolved.values
    model, urls = settings.judge_model, settings.judge_base_url
    judging = ResultJudging(file, settings.helmet_data or Path())
    if model is None and not urls:
        say("No judge was named, so the bundled tiny model judges; name one: --judge-model NAME.")
    key, timeout = settings.judge_api_key_env, settings.timeout
    served = read_served_model(urls, model, key, timeout_s=timeout) if urls else None
    thinking = Thinking(settings.judge_thinking, settings.judge_thinking_tokens)
    engine = ModelChoice(
        model, urls, key, timeout, thinking=thinking, trust_remote_code=settings.trust_remote_code
    ).load(say)
    name = engine.name if served is None else served.id
    kept = judging.find_kept(name)
    if kept:
        total = len(judging.result.rows)
        say(f"{len(kept)} of {total} rows were judged by {name} before and are kept.")
    patient = with_patience(engine, settings.patience, say)

    async def run() -> tuple[list[RowVerdict], float | None]:
        asking = RubricJudge(patient, name, concurrency=settings.concurrency, kept=kept)
        try:
            return await judging.run(asking)
        finally:
            await engine.close()

    verdicts, mean = asyncio.run(run())
    shown = "no verdict" if mean is None else mean
    echo(f"{judging.metric}, judged by {name}: {shown}; written: {judging.path}")
    unscored = [one for one in verdicts if one.value is None]
    for one in unscored[:MOST_LISTED]:
        say(f"  row {one.row}: {one.reason}")
    if (out := find_results_folder(file)) is not None and mean is not None:
        summarise_folder(out)
        echo(f"The verdicts are in the tables of {out} now.")
    if unscored:
        raise IncompleteRunError(
            f"{len(unscored)} of {len(verdicts)} rows have no readable verdict.",
            hint="Run the same command again, or with another judge.",
        )


class CiteSettings(Settings):
    """Settings of `agenticlu eval cite`."""

    nli: Annotated[str | None, Spelling(metavar="FOLDER")] = None
    """Folder of the inference model. Default: the one ALCE uses."""


@settings_command(CiteSettings, "eval.cite", group=command)
@operand("file", type=FILE)
def cite(resolved: Resolved[CiteSettings], file: Path) -> None:
    """Score the citations of an ALCE result file (ours or HELMET's) with a local inference model.

    Writes FILE.score, as HELMET's eval_alce.py does: citation_rec and citation_prec by its rule,
    under which [0] means the last passage and passages that were not shown may be cited. Beside
    them, citation_rec_shown and citation_prec_shown take the ids of the passages shown alone.
    """
    from agenticlu.evaluation.helmet import alce
    from agenticlu.evaluation.helmet.sources import read_result
    from agenticlu.evaluation.predictions import write_json

    result = read_result(file)
    task = result.find_task()
    if not task.startswith("alce_"):
        raise UsageError(
            f"{str(file)!r} holds {task}, not ALCE's data.",
            hint="Result files of ALCE begin with alce_asqa or alce_qampari.",
        )
    alce.check_rows(result, task)
    if task == "alce_asqa" and (note := alce.describe_splitter()):
        say(note)
    entails = alce.T5Entails(resolved.values.nli or alce.NLI_MODEL, report=say)
    shown = alce.parse_num_shown(file.name)
    found = alce.score_rows(task, result.rows, entails, num_shown=shown)
    path = file.with_name(file.name + ".score")
    write_json(path, found)
    for name in ("citation_rec", "citation_prec"):
        echo(f"{name}: {found[name]:.1f}; of passages shown: {found[name + alce.SHOWN]:.1f}")
    echo(f"Written: {path}")


@settings_command(JsonSettings, "eval.recall", group=command)
@operand("run", type=FOLDER)
def recall(resolved: Resolved[JsonSettings], run: Path) -> None:
    """Show recall by depth and pass@k of a generation run (agenticlu generate)."""
    from agenticlu.evaluation.recall import render_recall, tree_recall
    from agenticlu.search.store import Store

    with Store(run, writable=False) as store:
        unfinished = store.tree_counts()["growing"]
        found = tree_recall(store.trees(only_finished=True), num_unfinished=unfinished)
    if resolved.values.as_json:
        echo_encoded(found.model_dump_json(indent=2))
    else:
        echo(render_recall(found))


class RowsSettings(TaskSettings):
    """Settings of `agenticlu eval rows`."""

    task: str
    """A generator, such as niah_single_1."""
    lengths: Annotated[tuple[TokenCount, ...], Spelling(metavar="TOKENS")]
    """Tokens of a row's document; one length."""
    out: Annotated[Path, Spelling(metavar="FILE")]
    """JSONL file of the rows."""
    limit: Positive = 100
    """Rows to write."""
    seed: int = 0
    """Seed of the rows."""
    tokenizer: Annotated[str | None, Spelling(metavar="NAME")] = None
    """Folder or hub id of the tokenizer that counts lengths. Default: an estimate."""


@settings_command(RowsSettings, "eval.rows", group=command, extra="evaluate")
def rows_of(resolved: Resolved[RowsSettings]) -> None:
    """Write a generator's rows, each with its seed.

    Rows of RULER's tasks and of key_values have the columns that HELMET reads; those of the others
    have a corpus's: context, question, answers.
    """
    from agenticlu.core.files import write_atomically
    from agenticlu.documents.tokens import load_tokenizer
    from agenticlu.evaluation.helmet import SPECS
    from agenticlu.evaluation.tasks import TaskRequest, load_items, require_task

    settings = resolved.values
    if len(settings.lengths) != 1:
        raise UsageError("One file holds rows of one length.", hint="Give one, such as 8k.")
    require_task(settings.task)
    if settings.task in SPECS:
        raise UsageError(
            f"The rows of {settings.task!r} are in HELMET's own files.",
            hint="agenticlu eval --list shows the tasks that need no download.",
        )
    request = TaskRequest(
        settings.task,
        settings.lengths[0],
        load_tokenizer(settings.tokenizer),
        limit=settings.limit,
        seed=settings.seed,
        options=settings.task_options(),
    )
    lines = []
    for item in load_items(request):
        row = {"context": item.document.text, **(item.row or {})}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomically(settings.out, "".join(lines))
    echo(f"{len(lines)} rows written to {settings.out}")
