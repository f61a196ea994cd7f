"""`agenticlu eval`: methods × tasks × lengths; and scoring, judging and tables of saved replies."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field

from agenticlu.core.config import Resolved, resolve
from agenticlu.core.errors import (
    AgenticluError,
    EngineUnreachableError,
    IncompleteRunError,
    UsageError,
)
from agenticlu.core.settings import Settings

if TYPE_CHECKING:
    from agenticlu.core.records import Prices
    from agenticlu.documents.tokens import Tokenizer
    from agenticlu.engines.replies import ServedModel
    from agenticlu.evaluation.config import RunSettings
    from agenticlu.evaluation.results import Summary

TASK_OPTIONS = (
    "shots",
    "helmet_data",
    "helmet_tokenizer",
    "templates",
    "haystack",
    "words",
)
"""Settings that only some tasks look at."""


Round = Annotated[int, Field(ge=1, le=20)]


class EvalSettings(Settings):
    """Settings of `agenticlu eval`; the table [eval] of a configuration file."""

    task: tuple[str, ...] = ("world",)
    methods: tuple[str, ...] = ("direct", "clarify")
    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    model: str | None = None
    """A folder in Hugging Face layout, or the name of a served model; None is the bundled one."""
    base_url: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"
    label: str = ""
    """Name of the model in the tables."""
    limit: Annotated[int, Field(ge=1)] | None = None
    questions_per_document: Annotated[int, Field(ge=1)] = 4
    rounds: Round | tuple[Round, ...] = 1
    """Rounds of clarify at most; several numbers are shown side by side."""
    seed: int = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 256
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """None: what suits the model, 512 unless its folder says otherwise."""
    top_k: Annotated[int, Field(ge=1)] = 4
    retriever: Literal["bm25", "engine"] = "bm25"
    overlong: Literal["refuse", "fit", "cut-end"] = "refuse"
    rouge: bool = False
    metric: str | None = None
    """Metric shown first where an item has it; None takes each task's own."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Seconds that one request to a server may take."""
    patience_s: Annotated[float, Field(ge=0)] = 300.0
    """Seconds without any answer until an absent or overloaded server is given up."""
    profile: str = "default"
    tokenizer: str | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    """Demonstrations of HELMET's tasks; None is HELMET's own number."""
    helmet_data: str | None = None
    """Folder that holds HELMET's `data/`, and hub data sets by name."""
    helmet_tokenizer: str | None = None
    """Folder of the tokenizer that HELMET counts documents with; None is Llama 2's."""
    templates: str | None = None
    """TOML file of other instruction wordings."""
    chat: bool | None = None
    """Prompt layouts sent as chat, or as plain text to continue; None: each as HELMET sends it."""
    haystack: str | None = None
    """Text file that needles are hidden in; None invents prose."""
    words: Literal["wonderwords", "own"] = "wonderwords"
    """Where RULER's tasks take keys and counted words from: the package that RULER takes them from
    (extra `evaluate`), or lists of our own."""


class Names(click.ParamType[tuple[str, ...]]):
    """Comma-separated names."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Splits at commas; empty parts are an error."""
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in str(value).split(","))
        if not all(parts):
            self.fail(f"{value!r} has an empty part.", param, ctx)
        return tuple(dict.fromkeys(parts))


class Lengths(click.ParamType[tuple[int, ...]]):
    """Comma-separated token counts; `8k` means 8192."""

    name = "tokens"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Reads the numbers."""
        if isinstance(value, tuple):
            return value
        lengths = []
        for part in str(value).split(","):
            text = part.strip().lower()
            number = text[:-1] if text.endswith("k") else text
            if not number.isdigit() or int(number) < 1:
                self.fail(f"{part!r} is no length; try 8192 or 8k.", param, ctx)
            lengths.append(int(number) * (1024 if text.endswith("k") else 1))
        return tuple(dict.fromkeys(lengths))


class Rounds(click.ParamType[int | tuple[int, ...]]):
    """A number of rounds, or several separated by commas."""

    name = "rounds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        """Reads the numbers."""
        if isinstance(value, (int, tuple)):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdigit() for part in parts):
            self.fail(f"{value!r} is no number of rounds; try 2 or 1,2,3.", param, ctx)
        numbers = tuple(sorted({int(part) for part in parts}))
        return numbers[0] if len(numbers) == 1 else numbers


FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
WORDS = click.Choice(["wonderwords", "own"])


@click.group("eval", invoke_without_command=True, subcommand_metavar="[COMMAND ...]")
@click.option("--task", type=Names(), help="Tasks (default world); --list shows them.")
@click.option("--methods", type=Names(), help="Methods (default direct,clarify).")
@click.option("--lengths", type=Lengths(), help="Tokens, such as 256,1k (default 256 to 2k).")
@click.option("--model", help="Folder of a model, or the name of a served one.")
@click.option("--base-url", multiple=True, help="OpenAI-compatible server; several make a pool.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the key.")
@click.option("--out", type=FOLDER, help="Folder of results; run again to go on.")
@click.option("--label", help="Name of the model in the tables.")
@click.option("--limit", type=int, help="Items per task and length at most.")
@click.option("--questions-per-document", type=int, help="Of the world task (default 4).")
@click.option("--rounds", type=Rounds(), help="Of clarify at most (default 1); 1,2,3: each.")
@click.option("--seed", type=int, help="Of items and sampling (default 0).")
@click.option("--temperature", type=float, help="0 is greedy (default).")
@click.option("--top-p", type=float, help="Default 1.")
@click.option(
    "--max-tokens", type=int, help="Most tokens of an answering reply, all methods (default 256)."
)
@click.option("--piece-tokens", type=int, help="Tokens of a paragraph at most.")
@click.option("--top-k", type=int, help="Pieces that retrieve shows (default 4).")
@click.option("--retriever", type=click.Choice(["bm25", "engine"]), help="Default bm25.")
@click.option(
    "--overlong",
    type=click.Choice(["refuse", "fit", "cut-end"]),
    help="Longer than the window: refuse (default); fit: leave out pieces without gold facts; "
    "cut-end: cut the context's end, as HELMET does (method helmet).",
)
@click.option("--rouge", is_flag=True, default=None, help="Compute ROUGE too.")
@click.option("--metric", help="Metric shown first, such as substring_exact_match.")
@click.option("--concurrency", type=int, help="Items in flight (default 8).")
@click.option("--timeout", type=float, help="Seconds of a request to a server (default 600).")
@click.option("--patience-s", type=float, help="Wait for an absent server (default 300).")
@click.option("--profile", help="Prompt profile.")
@click.option("--tokenizer", help="Counts lengths; default: the model's own.")
@click.option("--shots", type=int, help="Demonstrations of HELMET's tasks.")
@click.option("--helmet-data", metavar="FOLDER", help="Holds HELMET's data/.")
@click.option("--helmet-tokenizer", metavar="FOLDER", help="In place of Llama 2's.")
@click.option("--templates", metavar="FILE", help="TOML file of other instruction wordings.")
@click.option(
    "--chat/--no-chat",
    default=None,
    help="HELMET's prompts as chat, or as plain text to continue, all (default: as HELMET does).",
)
@click.option("--haystack", metavar="FILE", help="Prose to hide needles in.")
@click.option(
    "--words", type=WORDS, help="Of needles' keys and counted words (default wonderwords)."
)
@click.option("--as-published", is_flag=True, help="The published arms' settings; see the docs.")
@click.option("--retry-failed", is_flag=True, help="Run items again that failed before.")
@click.option("--dry-run", is_flag=True, help="Print requests, tokens and price; ask nothing.")
@click.option("--price-in", type=float, help="Price of a million prompt tokens, for --dry-run.")
@click.option("--price-cached", type=float, help="The same of cached ones; default: --price-in.")
@click.option("--price-out", type=float, help="Price of a million sampled tokens, for --dry-run.")
@click.option("--tokens-per-s", type=float, help="Rate of computed tokens, for --dry-run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--config", "config_file", metavar="FILE", help="TOML file with these settings.")
@click.option("--show-config", is_flag=True, help="Print every setting and its origin.")
@click.option("--list", "list_names", is_flag=True, help="List tasks and methods.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path | None,
    as_published: bool,
    retry_failed: bool,
    dry_run: bool,
    price_in: float | None,
    price_cached: float | None,
    price_out: float | None,
    tokens_per_s: float | None,
    as_json: bool,
    config_file: str | None,
    show_config: bool,
    list_names: bool,
    **flags: Any,
) -> None:
    """Evaluate methods on tasks at several lengths.

    Results go to OUT/predictions.jsonl (one line per finished item), OUT/summary.json,
    OUT/results.md, OUT/results.csv, OUT/differences.csv and, for HELMET's tasks, OUT/helmet/. The
    same command again goes on where it stopped. The exit code is 9 when items failed.
    """
    if ctx.invoked_subcommand is not None:
        return
    if list_names:
        _list_names(as_json)
        return
    resolved = resolve(
        EvalSettings,
        section="eval",
        flags={key: value or None if key == "base_url" else value for key, value in flags.items()},
        config_file=config_file,
    )
    if show_config:
        click.echo(resolved.describe())
        return
    settings = _prepare(resolved, as_published, dry_run)
    if dry_run:
        from agenticlu.core.records import Prices

        prices = Prices(price_in, price_out, price_cached, tokens_per_s)
        _print_plan(settings, prices, out, retry_failed, as_json)
        return
    if out is None:
        raise UsageError("Where should the results go?", hint="Add --out EVAL (a folder).")
    summary = asyncio.run(_run(resolved.values, settings, out, retry_failed))
    _print_summary(summary, out, as_json)
    if summary.num_failed:
        raise IncompleteRunError(
            f"{summary.num_failed} of {summary.num_items} items failed; they are listed in "
            f"{out / 'results.md'}.",
            hint="Run the same command with --retry-failed. Items too long for the model need "
            "--overlong fit, and another --out.",
        )
    if summary.left_out:
        raise IncompleteRunError(" ".join(summary.left_out), hint="Choose longer lengths.")


def _prepare(resolved: Resolved[EvalSettings], as_published: bool, dry_run: bool) -> RunSettings:
    from agenticlu.core.records import content_id
    from agenticlu.dialogue.profiles import load_profile
    from agenticlu.documents import DEFAULT_PIECE_TOKENS
    from agenticlu.documents.tokens import ApproximateTokenizer, read_model_hint
    from agenticlu.engines import check_base_url, check_model_path
    from agenticlu.evaluation.config import (
        EvaluationConfig,
        RunSettings,
        as_published_config,
        fingerprint,
    )
    from agenticlu.evaluation.run import check_config

    given = resolved.values
    urls = tuple(check_base_url(url) for url in given.base_url)
    served = _read_served(given, urls, dry_run) if urls else None
    folder = None if urls else check_model_path(given.model)
    tokenizer = _load_tokenizer(given, folder, served)
    hint = read_model_hint(folder, "piece_tokens") if folder else None
    hint = served.piece_tokens if served is not None else hint
    piece_tokens = given.piece_tokens or hint or DEFAULT_PIECE_TOKENS
    if urls and isinstance(tokenizer, ApproximateTokenizer):
        click.echo(
            f"The tokenizer of {given.model or 'the served model'} is not at hand: lengths are "
            f"estimated, at about four characters a token, and pieces have {piece_tokens} such "
            "tokens. With another tokenizer documents are cut elsewhere, and results cannot be "
            "compared. --tokenizer NAME counts exactly.",
            err=True,
        )
    values = given.model_dump()
    options = {
        name: values[name]
        for name in TASK_OPTIONS
        if values[name] is not None and values[name] is not False
    }
    weights = fingerprint(folder) if folder else served.weights if served is not None else ""
    name = served.id if served is not None else given.model or ""
    same = set(EvaluationConfig.model_fields) & set(values)
    config = EvaluationConfig(
        **{
            **{name: values[name] for name in same},
            "tasks": given.task,
            "with_rouge": given.rouge,
            "piece_tokens": piece_tokens,
            "tokenizer": tokenizer.name,
            "model_fingerprint": weights or content_id("served as", name),
            "weights_known": bool(weights),
            "servers": urls,
            "label": given.label or (name if urls else ""),
            "options": options,
        }
    )
    if as_published:
        _refuse_contradictions(resolved)
        config = as_published_config(config)
        click.echo(
            "As published: one round, temperature 0.6 (prompting arms greedy), up to 1024 tokens "
            "a turn, HELMET's substring match first.",
            err=True,
        )
    check_config(config)
    profile = load_profile(given.profile)
    window = served.context_tokens if served is not None else None
    if folder is not None and dry_run:
        window = _window_of(Path(folder))
    return RunSettings(config, profile, tokenizer, context_tokens=window)


def _read_served(given: EvalSettings, urls: tuple[str, ...], dry_run: bool) -> ServedModel | None:
    """Asks the servers what they serve; a plan does without, where nobody answers."""
    from agenticlu.engines.probe import read_served_model

    try:
        return read_served_model(urls, given.model, given.api_key_env)
    except EngineUnreachableError as error:
        if not dry_run:
            raise
        click.echo(f"{error.message} The plan is made without its window.", err=True)
        return None


def _load_tokenizer(
    given: EvalSettings, folder: str | None, served: ServedModel | None
) -> Tokenizer:
    """Loads the tokenizer that was asked for, else the model's own, else one that estimates."""
    from agenticlu.documents.tokens import load_tokenizer

    if given.tokenizer is not None or folder is not None:
        return load_tokenizer(given.tokenizer or folder)
    named = (served.root if served is not None else "", given.model or "")
    for name in dict.fromkeys(named):
        is_folder = Path(name).expanduser().is_dir()
        if not name or not (is_folder or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)):
            continue
        try:
            return load_tokenizer(str(Path(name).expanduser()) if is_folder else name)
        except AgenticluError:
            continue
    return load_tokenizer(None)


def _refuse_contradictions(resolved: Resolved[EvalSettings]) -> None:
    """Raises UsageError where a setting was given that --as-published sets otherwise."""
    from agenticlu.evaluation.config import PUBLISHED

    values = resolved.values.model_dump()
    for name, value in PUBLISHED.items():
        origin = resolved.origins.get(name, "default")
        if origin != "default" and values[name] != value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"--as-published means {flag} {value}, and {flag} {values[name]} was given "
                f"({origin}).",
                hint=f"Leave one of them out; without --as-published, {flag} is free.",
            )


def _window_of(folder: Path) -> int | None:
    """Returns a local model's window, from its configuration alone."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    window = found.get("max_position_embeddings") if isinstance(found, dict) else None
    return window if isinstance(window, int) else None


async def _run(
    given: EvalSettings,
    settings: RunSettings,
    out: Path,
    retry_failed: bool,
) -> Summary:
    from agenticlu.engines import load_engine
    from agenticlu.evaluation.run import run_evaluation

    options = {"timeout_s": given.timeout} if given.base_url else {}
    engine = load_engine(given.model, given.base_url, given.api_key_env, **options)
    try:
        return await run_evaluation(
            settings,
            engine,
            out,
            retry_failed=retry_failed,
            patience_s=given.patience_s,
            report=lambda line: click.echo(line, err=True),
        )
    finally:
        await engine.close()


def _list_names(as_json: bool) -> None:
    from agenticlu.evaluation.helmet.specs import SPECS
    from agenticlu.evaluation.methods import METHODS
    from agenticlu.evaluation.tasks import TASKS

    own = [name for name in TASKS if name not in SPECS]
    theirs = list(SPECS)
    if as_json:
        notes = {name: method.note for name, method in METHODS.items()}
        click.echo(json.dumps({"methods": notes, "tasks": own, "helmet_tasks": theirs}, indent=2))
        return
    click.echo("Methods:")
    for name, method in METHODS.items():
        click.echo(f"  {name:26} {method.note}")
    click.echo(f"Tasks that need no download:\n  {', '.join(own)}")
    click.echo(f"HELMET's data sets (--helmet-data FOLDER):\n  {', '.join(theirs)}")


def _print_summary(summary: Summary, out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(summary.model_dump_json(indent=2))
        return
    from agenticlu.evaluation.tables import LEGEND, render_differences, render_results

    click.echo(render_results(summary))
    if summary.differences:
        click.echo("\nPaired differences, percentage points:")
        click.echo(render_differences(summary))
    click.echo("\n" + "\n".join([LEGEND, *summary.notes]))
    click.echo(
        f"\nWritten: {out / 'summary.json'}, results.md, results.csv, differences.csv, "
        "predictions.jsonl"
    )


def _print_plan(
    settings: RunSettings,
    prices: Prices,
    out: Path | None,
    retry_failed: bool,
    as_json: bool,
) -> None:
    from agenticlu.evaluation.config import CONFIG_NAME
    from agenticlu.evaluation.plan import build_plan, render_plan
    from agenticlu.evaluation.predictions import FILE_NAME, read_predictions

    done, config = {}, settings.config
    if out is not None and (out / FILE_NAME).is_file():
        done = read_predictions(out / FILE_NAME, warn=False)
    if not config.label and out is not None and (out / CONFIG_NAME).is_file():
        before = json.loads((out / CONFIG_NAME).read_text(encoding="utf-8"))
        if before.get("model_fingerprint") == config.model_fingerprint:
            config = config.model_copy(update={"label": before["label"]})
            settings = replace(settings, config=config)
    plan = build_plan(settings, prices=prices, done=done, retry_failed=retry_failed)
    click.echo(plan.model_dump_json(indent=2) if as_json else render_plan(plan))


@command.command("table")
@click.argument("out", type=FOLDER)
@click.option("--metric", help="Metric shown first, such as substring_exact_match.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def table(out: Path, metric: str | None, as_json: bool) -> None:
    """Write the tables of a folder of results again; verdicts that came since are then in them."""
    from agenticlu.evaluation.run import summarise_folder

    _print_summary(summarise_folder(out, metric), out, as_json)


@command.command("score")
@click.argument("file", type=FILE)
@click.option("--rule", help="Scoring rule of all rows; default: what each row calls for.")
@click.option("--rouge", is_flag=True, help="Compute ROUGE too.")
@click.option("--out", type=FILE, help="JSONL of each row's scores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score(file: Path, rule: str | None, rouge: bool, out: Path | None, as_json: bool) -> None:
    """Score saved predictions, without a model.

    FILE is JSONL with `prediction` and `answers` (and perhaps `options`, `id`, `document_id`), a
    predictions.jsonl of this program, or a result file of HELMET. Rows that cannot be scored are
    counted and listed, and the exit code is then 9.
    """
    from agenticlu.core.output_dir import write_atomically
    from agenticlu.evaluation.rescore import render_scores, score_file

    scored = score_file(file, rule=rule, with_rouge=rouge)
    if out is not None:
        write_atomically(out, "".join(f"{row.model_dump_json()}\n" for row in scored.rows))
    shown = scored.model_dump_json(indent=2, exclude={"rows"})
    click.echo(shown if as_json else render_scores(scored))
    if scored.num_unscored:
        raise IncompleteRunError(
            f"{scored.num_unscored} of {scored.num_unscored + scored.num_scored} rows could not "
            "be scored."
        )


@command.command("collect")
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--every", is_flag=True, help="Every data set instead of the seven categories.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def collect_results(folders: tuple[Path, ...], every: bool, as_json: bool) -> None:
    """Put HELMET's result files (ours or its own) into HELMET's table; one folder per model."""
    from agenticlu.evaluation.helmet.results import collect, render_collected

    rows = collect(folders)
    if as_json:
        click.echo(json.dumps([row.model_dump() for row in rows], indent=2))
        return
    click.echo(render_collected(rows, every=every))
    for row in rows:
        for lost in row.losses:
            click.echo(f"{row.model} at {row.length}, {lost}")
        if row.missing:
            click.echo(f"{row.model} at {row.length} lacks: {', '.join(row.missing)}", err=True)


@command.command("judge")
@click.argument("file", type=FILE)
@click.option("--model", help="The judge: a folder, or the name of a served model.")
@click.option("--base-url", multiple=True, help="OpenAI-compatible server.")
@click.option("--api-key-env", default="OPENAI_API_KEY", show_default=True)
@click.option("--helmet-data", type=FOLDER, help="Holds HELMET's key points, for summaries.")
@click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Of a request, s.")
def judge(
    file: Path,
    model: str | None,
    base_url: tuple[str, ...],
    api_key_env: str,
    helmet_data: Path | None,
    concurrency: int,
    timeout: float,
) -> None:
    """Judge the long answers or summaries of a HELMET result file by a model.

    Writes FILE-gpt4eval_o.json beside it. Rows whose verdict cannot be read stay unscored and make
    the exit code 9. The same command again asks only for the verdicts that are missing.
    """
    from agenticlu.engines import load_engine
    from agenticlu.engines.limits import with_patience
    from agenticlu.engines.probe import read_served_model
    from agenticlu.evaluation.helmet.results import find_results_folder
    from agenticlu.evaluation.rescore import MOST_LISTED, ResultJudging
    from agenticlu.evaluation.run import PATIENCE_S, summarise_folder
    from agenticlu.judges.rubric import RowVerdict, RubricJudge

    def say(line: str) -> None:
        click.echo(line, err=True)

    judging = ResultJudging(file, helmet_data or Path())
    options = {"timeout_s": timeout} if base_url else {}
    served = read_served_model(base_url, model, api_key_env) if base_url else None
    engine = load_engine(model, base_url, api_key_env, **options)
    name = engine.name if served is None else served.id
    kept = judging.find_kept(name)
    if kept:
        total = len(judging.result.rows)
        say(f"{len(kept)} of {total} rows were judged by {name} before and are kept.")
    patient = with_patience(engine, PATIENCE_S, say)

    async def run() -> tuple[list[RowVerdict], float | None]:
        try:
            return await judging.run(RubricJudge(patient, name, concurrency=concurrency, kept=kept))
        finally:
            await engine.close()

    verdicts, mean = asyncio.run(run())
    shown = "no verdict" if mean is None else mean
    click.echo(f"{judging.metric}, judged by {name}: {shown}; written: {judging.path}")
    unscored = [one for one in verdicts if one.value is None]
    for one in unscored[:MOST_LISTED]:
        say(f"  row {one.row}: {one.reason}")
    if (out := find_results_folder(file)) is not None and mean is not None:
        summarise_folder(out)
        click.echo(f"The verdicts are in the tables of {out} now.")
    if unscored:
        raise IncompleteRunError(
            f"{len(unscored)} of {len(verdicts)} rows have no readable verdict.",
            hint="Run the same command again, or with another judge.",
        )


@command.command("cite")
@click.argument("file", type=FILE)
@click.option("--nli", metavar="FOLDER", help="Inference model; default: the one ALCE uses.")
def cite(file: Path, nli: str | None) -> None:
    """Score the citations of an ALCE result file (ours or HELMET's) by an inference model here.

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
        click.echo(note, err=True)
    entails = alce.T5Entails(nli or alce.NLI_MODEL, report=lambda line: click.echo(line, err=True))
    shown = alce.parse_num_shown(file.name)
    score = alce.score_rows(task, result.rows, entails, num_shown=shown)
    path = file.with_name(file.name + ".score")
    write_json(path, score)
    for name in ("citation_rec", "citation_prec"):
        click.echo(f"{name}: {score[name]:.1f}; of passages shown: {score[name + alce.SHOWN]:.1f}")
    click.echo(f"Written: {path}")


@command.command("recall")
@click.argument("run", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recall(run: Path, as_json: bool) -> None:
    """Show recall by depth and pass@k of a generation run (agenticlu generate)."""
    from agenticlu.evaluation.recall import render_recall, tree_recall
    from agenticlu.search.store import Store

    with Store(run, writable=False) as store:
        unfinished = store.tree_counts()["growing"]
        found = tree_recall(store.trees(only_finished=True), num_unfinished=unfinished)
    click.echo(found.model_dump_json(indent=2) if as_json else render_recall(found))


@command.command("rows")
@click.option("--task", required=True, help="A generator, such as niah_single_1.")
@click.option("--lengths", type=Lengths(), required=True, help="One length.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Rows.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--tokenizer", help="Counts lengths.")
@click.option("--shots", type=click.IntRange(min=0), help="Demonstrations that must fit too.")
@click.option("--templates", metavar="FILE", help="TOML file of other instruction wordings.")
@click.option("--haystack", metavar="FILE", help="Prose to hide needles in.")
@click.option("--words", type=WORDS, help="Of keys and counted words (default wonderwords).")
@click.option("--out", type=FILE, required=True, help="JSONL of the rows.")
def rows_of(
    task: str,
    lengths: tuple[int, ...],
    limit: int,
    seed: int,
    tokenizer: str | None,
    out: Path,
    **options: Any,
) -> None:
    """Write a generator's rows, each with the seed that it follows from.

    Rows of RULER's tasks and of key_values have the columns that HELMET reads; those of the others
    have a corpus's: context, question, answers.
    """
    from agenticlu.core.output_dir import write_atomically
    from agenticlu.documents.tokens import load_tokenizer
    from agenticlu.evaluation.helmet.specs import SPECS
    from agenticlu.evaluation.tasks import TaskRequest, load_items, require_task

    if len(lengths) != 1:
        raise UsageError("One file holds rows of one length.", hint="Give one, such as 8k.")
    require_task(task)
    if task in SPECS:
        raise UsageError(
            f"The rows of {task!r} are in HELMET's own files.",
            hint="agenticlu eval --list shows the tasks that need no download.",
        )
    request = TaskRequest(
        task,
        lengths[0],
        load_tokenizer(tokenizer),
        limit=limit,
        seed=seed,
        options={name: value for name, value in options.items() if value is not None},
    )
    lines = []
    for item in load_items(request):
        row = {"context": item.document.text, **(item.row or {})}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomically(out, "".join(lines))
    click.echo(f"{len(lines)} rows written to {out}")
