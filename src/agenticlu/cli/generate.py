"""`agenticlu generate`: tree search over a corpus; `agenticlu generate merge`: union of shards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agenticlu.cli.controls import controls
from agenticlu.core.errors import TERMINATED_EXIT_CODE, IncompleteRunError, UsageError

if TYPE_CHECKING:
    from agenticlu.core.progress import MetricsWriter, Progress
    from agenticlu.core.records import Node, Tree
    from agenticlu.data.corpus import Item, LeftOut
    from agenticlu.search.config import SearchConfig
    from agenticlu.search.run import SearchSummary


class CorpusGroup(click.Group):
    """Takes a corpus where no subcommand is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `run` in front unless a subcommand or help stands there."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


AT_LEAST_ONE = click.IntRange(min=1)
SEARCH_OPTIONS = (
    click.option("--branching", type=int, help="Clarifications sampled from a node.  [default: 8]"),
    click.option("--depth", type=int, help="Rounds at most.  [default: 3]"),
    click.option("--piece-tokens", type=int, help="Tokens of a piece at most.  [default: 512]"),
    click.option(
        "--grounding",
        type=click.Choice(["scan", "scan-many", "shortlist", "point", "as-published"]),
        help="How pieces are found.  [default: scan]",
    ),
    click.option(
        "--view",
        type=click.Choice(["kept", "document"]),
        help="Answer over the pieces found, or over the whole document, read once. [default: kept]",
    ),
    click.option(
        "--growth",
        type=click.Choice(["until-solved", "full", "best-first"]),
        help="Which nodes are expanded.  [default: until-solved]",
    ),
    click.option(
        "--deepen", type=int, help="Nodes per level that until-solved expands.  [default: 2]"
    ),
    click.option("--node-budget", type=int, help="Nodes per tree at most (best-first)."),
    click.option("--token-budget", type=int, help="Tokens per tree at most (best-first)."),
    click.option("--threshold", type=float, help="Relevance a piece must reach.  [default: 0.5]"),
    click.option("--top-k", type=int, help="Pieces kept at most.  [default: 8]"),
    click.option("--shortlist-k", type=int, help="Pieces that BM25 hands on.  [default: 16]"),
    click.option(
        "--judge",
        "judges",
        multiple=True,
        type=click.Choice(["exact", "rouge-l", "llm"]),
        help="May be given several times.  [default: exact]",
    ),
    click.option(
        "--judge-all", is_flag=True, default=None, help="Ask models about exact matches, too."
    ),
    click.option(
        "--closed-book", type=int, help="Answers sampled without the document.  [default: 0]"
    ),
    click.option("--profile", help="Prompt profile, or a TOML file.  [default: default]"),
    click.option("--seed", type=int, help="[default: 0]"),
    click.option("--as-published", is_flag=True, help="The published algorithm, end to end."),
    click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file."),
)
ENGINE_OPTIONS = (
    click.option("--model", help="Model folder or name; without it the bundled one."),
    click.option("--base-url", multiple=True, help="Server; several make a pool."),
    click.option("--api-key-env", default="OPENAI_API_KEY", show_default=True),
    click.option("--tokenizer", help="Folder or hub id; default: the model's own."),
)
TIMEOUT_OPTION = click.option(
    "--timeout",
    type=float,
    default=600.0,
    show_default=True,
    help="Seconds that one request to a server may take, a judge's too.",
)
CORPUS_OPTIONS = (
    click.option("--limit", type=int, help="Questions at most."),
    click.option("--column", "columns", multiple=True, help="field=column, such as context=text."),
    click.option("--split", default="train", show_default=True, help="Of a hub data set."),
    click.option("--shard", help="i/n: only the documents of this share (from 0)."),
)


Function = TypeVar("Function", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Adds several options to a command, in order."""

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def resolve_config(
    as_published: bool,
    config_file: Path | None,
    flags: dict[str, Any],
    model: str | None,
    base_url: tuple[str, ...] = (),
) -> SearchConfig:
    """Returns the search's settings: flags, environment, files, then defaults.

    A model's folder may say how long its pieces should be.
    """
    from agenticlu.core.config import resolve
    from agenticlu.search.config import SearchConfig
    from agenticlu.search.setup import EngineChoice

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if as_published:
        published = SearchConfig.as_published()
        for name in published.model_fields_set:
            given.setdefault(name, getattr(published, name))
    resolved = resolve(SearchConfig, section="generate", flags=given, config_file=config_file)
    changes: dict[str, Any] = {}
    if as_published and given.get("top_k") is None:
        changes["top_k"] = None
    hint = EngineChoice(model, base_url).hint("piece_tokens")
    if hint is not None and resolved.origins["piece_tokens"] == "default":
        changes["piece_tokens"] = hint
    return resolved.values.model_copy(update=changes)


@click.group(cls=CorpusGroup, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Grow trees of clarifications: agenticlu generate CORPUS --out RUN [options].

    CORPUS is a .jsonl or .parquet file or a hub id; see agenticlu generate run --help. Running the
    same command again goes on where it stopped.
    """


@command.command("run")
@click.argument("corpus")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@with_options(*ENGINE_OPTIONS, *SEARCH_OPTIONS, *CORPUS_OPTIONS)
@click.option("--judge-model", multiple=True, help="Model of the judge 'llm'; several vote.")
@click.option("--judge-base-url", multiple=True, help="Server of the judges.")
@click.option("--judge-api-key-env", default="OPENAI_API_KEY", show_default=True)
@click.option(
    "--parallel", type=AT_LEAST_ONE, default=16, show_default=True, help="Questions at a time."
)
@click.option(
    "--in-flight", type=AT_LEAST_ONE, default=256, show_default=True, help="Requests at most."
)
@click.option(
    "--tokens-in-flight",
    type=AT_LEAST_ONE,
    default=400_000,
    show_default=True,
    help="Prompt tokens at most.",
)
@click.option("--max-tokens", type=AT_LEAST_ONE, help="Stop after so many computed tokens.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    help="Seconds without an engine.",
)
@click.option("--retry-failed", is_flag=True, help="Ask again what failed for good before.")
@TIMEOUT_OPTION
@click.option(
    "--seal", help="Folder or URL (fsspec) that gets sealed segments, and gives them back."
)
@click.option(
    "--seal-every",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Minutes between segments.",
)
@click.option(
    "--ray",
    "ray_workers",
    type=AT_LEAST_ONE,
    help="Search with so many Ray workers; the limits hold for each, --max-tokens for all.",
)
@click.option("--ray-address", help="Of a Ray cluster; default: Ray on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def run(
    *,
    corpus: str,
    out: Path,
    model: str | None,
    base_url: tuple[str, ...],
    api_key_env: str,
    tokenizer: str | None,
    as_published: bool,
    config_file: Path | None,
    limit: int | None,
    columns: tuple[str, ...],
    split: str,
    shard: str | None,
    judge_model: tuple[str, ...],
    judge_base_url: tuple[str, ...],
    judge_api_key_env: str,
    parallel: int,
    in_flight: int,
    tokens_in_flight: int,
    max_tokens: int | None,
    patience: float,
    retry_failed: bool,
    timeout: float,
    seal: str | None,
    seal_every: float,
    ray_workers: int | None,
    ray_address: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Grow trees of clarifications for the questions of CORPUS into the folder OUT."""
    from agenticlu.core.output_dir import check_owner
    from agenticlu.data.corpus import LeftOut
    from agenticlu.search.run import Limits
    from agenticlu.search.setup import (
        EngineChoice,
        JudgeChoice,
        check_judges,
        parse_columns,
        parse_shard,
    )

    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}.")
    check_owner(out, "generate")
    config = resolve_config(as_published, config_file, flags, model, base_url)
    check_judges(judge_model, config.judges)
    limits = Limits(
        parallel=parallel,
        prompt_tokens_in_flight=tokens_in_flight,
        requests_in_flight=in_flight,
        patience_s=patience,
        max_tokens=max_tokens,
        retry_failed=retry_failed,
    )
    left_out = LeftOut()
    source = {
        "source": corpus,
        "columns": parse_columns(columns),
        "split": split,
        "limit": limit,
        "left_out": left_out,
    }
    engine = EngineChoice(model, base_url, api_key_env, timeout)
    judge_choice = JudgeChoice(judge_model, judge_base_url, judge_api_key_env, timeout)
    try:
        if ray_workers is not None:
            job = {
                "engine": engine,
                "judges": judge_choice,
                "limits": limits,
                "tokenizer": tokenizer,
            }
            summary = _generate_on_ray(
                source,
                out,
                config,
                job,
                seal,
                workers=ray_workers,
                address=ray_address,
                shard=parse_shard(shard),
                quiet=quiet,
            )
        else:
            summary = _run_until_told(
                _generate(
                    corpus=source,
                    out=out,
                    config=config,
                    engine=engine,
                    tokenizer=tokenizer,
                    judges=judge_choice,
                    limits=limits,
                    shard=parse_shard(shard),
                    seal=seal,
                    seal_every_s=seal_every * 60,
                    quiet=quiet,
                )
            )
    except SystemExit:
        click.echo("agenticlu: terminated; run the same command again to go on.", err=True)
        raise
    summary.lines_left_out = left_out.num_lines
    click.echo(json.dumps(summary.as_dict(), indent=2) if as_json else render(summary, out))
    if summary.outcomes.get("failed"):
        raise IncompleteRunError(
            f"{summary.outcomes['failed']} of {summary.questions} questions failed; the others "
            f"are kept in {out}.",
            hint=f"See why: agenticlu status {shlex.quote(str(out))}; then run again with "
            "--retry-failed.",
        )


def _run_until_told(work: Coroutine[Any, Any, SearchSummary]) -> SearchSummary:
    """Runs work; SIGTERM, as schedulers send it, ends it the way Ctrl-C does."""

    async def run() -> SearchSummary:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        # The first signal alone: a second one must not cut short what the first began.
        loop.add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())
        try:
            return await task
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        sys.exit(TERMINATED_EXIT_CODE)


async def _generate(
    *,
    corpus: dict[str, Any],
    out: Path,
    config: SearchConfig,
    engine: Any,
    tokenizer: str | None,
    judges: Any,
    limits: Any,
    shard: Any,
    seal: str | None,
    seal_every_s: float,
    quiet: bool,
) -> SearchSummary:
    from agenticlu.core.output_dir import write_atomically
    from agenticlu.core.progress import MetricsWriter, Progress
    from agenticlu.data.corpus import LeftOut, load_corpus
    from agenticlu.dialogue.profiles import load_profile
    from agenticlu.judges.panel import build_judges
    from agenticlu.search.run import bind, run_search
    from agenticlu.search.setup import build_panel
    from agenticlu.search.shards.sealer import Sealer
    from agenticlu.search.store import Store

    # What cannot be is found before anything is written: it leaves no folder and no part of a
    # corpus behind. A hub data set streams, so of it only the first line is looked at.
    lines = load_corpus(**{**corpus, "left_out": LeftOut()})
    for _ in itertools.islice(lines, None if Path(corpus["source"]).exists() else 1):
        pass
    items = load_corpus(**corpus)
    profile = load_profile(config.profile)
    progress = Progress("questions", quiet=quiet)
    judge_engines = judges.engines(progress.warn)
    build_judges(config.judges, build_panel(judge_engines))
    sealer = None if seal is None else Sealer(out, seal, shard)
    with contextlib.ExitStack() as stack:
        if sealer is not None:
            stack.push(sealer.end)  # after the store has written all and is closed
        store = stack.enter_context(Store(out))
        write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
        metrics = stack.enter_context(MetricsWriter(out / "metrics.jsonl"))
        stack.enter_context(progress)
        words = engine.tokenizer(tokenizer)
        if sealer is not None:
            sealer.say = progress.warn
            bind(store, config, profile, tokenizer=words.name)
            progress.say(f"{sealer.take_up(store)} segments taken up from {seal}")
        listener = _listener(progress, metrics, corpus["left_out"])
        sampler = engine.load(limits.requests_in_flight, progress.warn)
        panel = build_panel(judge_engines, store, limits=limits, say=listener.say)
        try:
            async with sealer.every(seal_every_s) if sealer else contextlib.nullcontext():
                return await run_search(
                    items,
                    sampler,
                    store,
                    config,
                    tokenizer=words,
                    judges=build_judges(config.judges, panel),
                    limits=limits,
                    shard=shard,
                    progress=listener,
                )
        finally:
            await sampler.close()
            for judge in panel:
                await judge.close()


def _generate_on_ray(
    corpus: dict[str, Any],
    out: Path,
    config: SearchConfig,
    job: dict[str, Any],
    seal: str | None,
    *,
    workers: int,
    address: str | None,
    shard: Any,
    quiet: bool,
) -> SearchSummary:
    from agenticlu.core.output_dir import write_atomically
    from agenticlu.core.progress import MetricsWriter, Progress
    from agenticlu.data.corpus import LeftOut, load_corpus
    from agenticlu.dialogue.profiles import load_profile
    from agenticlu.judges.panel import build_judges
    from agenticlu.search.run import summarise
    from agenticlu.search.setup import build_panel
    from agenticlu.search.shards.ray import Job, search_on_ray
    from agenticlu.search.store import Store

    if address is not None and seal is None:
        raise UsageError(
            "Workers on other machines need a place that all of them see.",
            hint="Add --seal /shared/segments or a URL.",
        )

    def items(left_out: LeftOut) -> Iterator[Item]:
        found = load_corpus(**{**corpus, "left_out": left_out})
        return (one for one in found if shard is None or shard.holds(one.document.id))

    # What cannot be is found before anything is written: it leaves no folder behind.
    load_profile(config.profile)
    build_judges(config.judges, build_panel(job["judges"].engines()))
    num_questions = sum(1 for _ in items(corpus["left_out"]))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
    sealed = seal or str((out / "segments").resolve())
    with (
        MetricsWriter(out / "metrics.jsonl") as metrics,
        Progress("questions", quiet=quiet) as progress,
    ):
        search_on_ray(
            items(LeftOut()),  # counted above
            out,
            Job(config=config, sealed=sealed, **job),
            workers,
            address,
            progress=_listener(progress, metrics, corpus["left_out"]),
            num_questions=num_questions,
        )
    with Store(out, writable=False) as store:
        return summarise(store)


def _listener(progress: Progress, metrics: MetricsWriter, left_out: LeftOut) -> Any:
    """Shows a bar to people and writes a line per finished tree for machines."""
    from agenticlu.judges.panel import solved_depth
    from agenticlu.search.run import Listener

    began = time.monotonic()

    class Shown(Listener):
        def __init__(self) -> None:
            self.nodes = 0
            self.solved = 0

        def start(self, questions: int) -> None:
            progress.update(0, total=questions)
            if left_out.num_lines:
                self.say(left_out.render())

        def node(self, node: Node) -> None:
            self.nodes += 1
            progress.update(progress.done, note=f"{self.solved} solved, {self.nodes} nodes")

        def tree(self, tree: Tree) -> None:
            depth = solved_depth(tree)
            self.solved += depth is not None
            metrics.write(
                event="tree",
                elapsed_s=round(time.monotonic() - began, 3),
                question_id=tree.question.id,
                outcome=tree.outcome,
                solved_depth=depth,
                nodes=len(tree.nodes),
                computed_tokens=tree.usage.computed_tokens,
            )
            progress.advance(note=f"{self.solved} solved, {self.nodes} nodes")

        def say(self, text: str) -> None:
            metrics.write(event="note", text=text)
            progress.warn(text)

    return Shown()


def render(summary: SearchSummary, out: Path) -> str:
    """Returns the summary for people."""
    data = summary.as_dict()
    counts = {**data["outcomes"], "not grown": summary.questions - sum(summary.outcomes.values())}
    outcomes = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    lines = [f"{summary.questions} questions: {outcomes or 'none'}"]
    if summary.incomplete:
        lines.append(f"  trees that lack calls, kept as growing: {len(summary.incomplete)}")
    if summary.lines_left_out:
        lines.append(f"  lines without an accepted answer, left out: {summary.lines_left_out:,}")
    for depth, share in summary.recall_by_depth.items():
        where = "directly" if depth == 0 else f"within {depth} round{'s' if depth > 1 else ''}"
        lines.append(f"  solved {where}: {share:.1%} of {summary.scored} scored")
    if summary.gold_recall is not None:
        lines.append(f"  gold pieces found: {summary.gold_recall:.1%}")
    lines.append(
        f"{summary.nodes} nodes ({summary.failed_nodes} failed, {summary.unscored_nodes} unscored)"
        + (": --retry-failed asks the judges again" if summary.unscored_nodes else "")
    )
    if summary.shortfall:
        lines.append(f"  clarifications wanted and not found: {summary.shortfall:,}")
    lines.append(f"{'phase':>12} {'requests':>10} {'computed':>10} {'cached':>10} {'sampled':>10}")
    for name, usage in (*summary.usage.items(), ("total", summary.total)):
        computed = usage.prompt_tokens - usage.cached_tokens
        lines.append(
            f"{name:>12} {usage.requests:>10} {computed:>10} {usage.cached_tokens:>10} "
            f"{usage.completion_tokens:>10}"
        )
    following = f"agenticlu dataset build {shlex.quote(str(out))} --out DIR"
    lines.append(f"Kept in {out}. Next: {following}")
    return "\n".join(lines)


@command.command("merge")
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to merge into.")
def merge(*, sources: tuple[str, ...], out: Path) -> None:
    """Merge run folders, segments, or folders or URLs of segments into the run OUT."""
    from agenticlu.core.output_dir import check_owner
    from agenticlu.search.shards.merge import merge_runs

    check_owner(out, "generate")
    found = merge_runs(out, sources)
    click.echo(
        f"{found.sources} parts merged into {out}: {found.questions} questions, {found.trees} trees"
    )


@command.command("replay")
@click.argument("run", type=click.Path(path_type=Path))
@with_options(*SEARCH_OPTIONS)
@click.option("--judge-model", multiple=True, help="Model of the judge 'llm'; several vote.")
@click.option("--judge-base-url", multiple=True, help="Server of the judges.")
@click.option("--judge-api-key-env", default="OPENAI_API_KEY", show_default=True)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    help="Seconds without a judge.",
)
@click.option("--retry-failed", is_flag=True, help="Ask judges again that gave no verdict before.")
@TIMEOUT_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def replay_run(
    *,
    run: Path,
    as_published: bool,
    config_file: Path | None,
    judge_model: tuple[str, ...],
    judge_base_url: tuple[str, ...],
    judge_api_key_env: str,
    patience: float,
    retry_failed: bool,
    timeout: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Rebuild the trees of RUN from its ledger, with other judges or settings; samples nothing.

    What the ledger lacks under other settings is left out, up to whole trees. The rebuilt trees
    replace the stored ones; a replay with the old settings brings those back, and running the
    search with the new ones asks for the rest.
    """
    from agenticlu.search.run import Limits
    from agenticlu.search.setup import JudgeChoice, check_judges

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    judges = JudgeChoice(judge_model, judge_base_url, judge_api_key_env, timeout)
    limits = Limits(patience_s=patience, retry_failed=retry_failed)
    check_judges(judge_model, given.get("judges", ("those of the run",)))
    if retry_failed and "llm" not in given.get("judges", ()):
        raise UsageError(
            "A replay asks nobody again but judges that are models, and none is named.",
            hint="Add --judge llm --judge-model NAME to --retry-failed.",
        )
    if as_published or config_file is not None:
        raise UsageError(
            "A replay changes the run's own settings, one flag at a time.",
            hint="Leave out --as-published and --config.",
        )
    summary = asyncio.run(_replay(run, given, judges, limits))
    click.echo(json.dumps(summary.as_dict(), indent=2) if as_json else render(summary, run))


async def _replay(run: Path, changes: dict[str, Any], judges: Any, limits: Any) -> SearchSummary:
    from agenticlu.core.config import change
    from agenticlu.judges.panel import build_judges
    from agenticlu.search.run import load_run, replay
    from agenticlu.search.setup import build_panel
    from agenticlu.search.store import Store

    def tell(text: str) -> None:
        click.echo(text, err=True)

    config, _ = load_run(run)
    config = change(config, changes)
    with Store(run) as store:
        panel = build_panel(judges.engines(tell), store, limits=limits, say=tell)
        try:
            chosen = build_judges(config.judges, panel) if "judges" in changes else None
            trees, summary = await replay(
                store,
                config,
                chosen,
                judging=chosen is not None,
                retry_failed=limits.retry_failed,
            )
        finally:
            for judge in panel:
                await judge.close()
        for tree in trees:
            await store.finish_tree(tree, finished=tree.id not in summary.incomplete)
        await store.keep_trees({tree.id for tree in trees})
        store.put(config=config.model_dump(mode="json"))
        if chosen is not None:
            store.put(judges=[judge.name for judge in chosen])
    return summary


command.add_command(controls)
