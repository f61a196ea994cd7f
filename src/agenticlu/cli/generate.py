"""`agenticlu generate`: tree search over a corpus; merging, replaying and checking its runs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from agenticlu.cli.necessity import command as necessity
from agenticlu.cli.options import (
    CONTEXT,
    DefaultGroup,
    note_bundled,
    operand,
    render_setup,
    require,
    settings_command,
)
from agenticlu.cli.plan import (
    GenerateSettings,
    corpus_source,
    find_preset,
    judge_choices,
    search_config,
    show_plan,
)
from agenticlu.cli.pointing import command as pointing
from agenticlu.cli.stop_rule import command as stop_rule
from agenticlu.cli.termination import run_until_terminated
from agenticlu.core.config import Resolved
from agenticlu.core.errors import IncompleteRunError, UsageError
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.secrets import public_address
from agenticlu.core.settings import (
    JsonSettings,
    JudgeSettings,
    Positive,
    Settings,
    Spelling,
    change,
)
from agenticlu.search import ReplayConfig, SearchConfig

if TYPE_CHECKING:
    from agenticlu.data.corpus import Item, LeftOut
    from agenticlu.search.run import Limits, SearchSummary


@click.group(cls=DefaultGroup, context_settings=CONTEXT)
def command() -> None:
    """Grow trees of clarifications: agenticlu generate CORPUS --out RUN [options].

    CORPUS is a .jsonl, .csv or .parquet file, a folder of such files, or a hub id. Running the
    same command again resumes it.
    """


command.add_command(necessity)
command.add_command(pointing)
command.add_command(stop_rule)


@settings_command(GenerateSettings, "generate", name="run", group=command, find_preset=find_preset)
@operand("corpus")
def run(resolved: Resolved[GenerateSettings], corpus: str) -> None:
    """Grow trees of clarifications for the questions of CORPUS into the folder OUT."""
    from agenticlu.core.files import check_owner
    from agenticlu.data.corpus import LeftOut
    from agenticlu.search.setup import check_judges

    settings = resolved.values
    if settings.dry_run:
        show_plan(resolved, corpus)
        return
    out = require(settings.out, "--out", f"agenticlu generate {shlex.quote(corpus)} --out RUN")
    check_owner(out, "generate")
    config = search_config(resolved)
    check_judges(settings.judge_model, config.judges)
    note_bundled(settings, quiet=settings.quiet)
    left_out = LeftOut()
    source = corpus_source(settings, corpus, left_out)
    if settings.ray is not None:
        summary = _generate_on_ray(settings, config, source, out, settings.ray)
    else:
        summary = run_until_terminated(_generate(settings, config, source, out))
    summary.lines_left_out = left_out.num_lines
    _print_summary(summary, out, settings.as_json)
    if summary.outcomes.get("failed"):
        raise IncompleteRunError(
            f"{summary.outcomes['failed']} of {summary.questions} questions failed; the others "
            f"are kept in {out}.",
            hint=f"See why: agenticlu status {shlex.quote(str(out))}; then run again with "
            "--retry-failed.",
        )
    if summary.empty_nodes and summary.empty_nodes == summary.nodes - summary.failed_nodes:
        raise IncompleteRunError(
            f"All {summary.empty_nodes} answers are empty: the model replied with nothing.",
            hint="Look at what it says: agenticlu doctor, or agenticlu ask about one document.",
        )


def _limits(settings: GenerateSettings) -> Limits:
    from agenticlu.search.run import Limits

    return Limits(
        parallel=settings.trees_at_once,
        prompt_tokens_in_flight=settings.tokens_in_flight,
        requests_in_flight=settings.concurrency,
        patience_s=settings.patience,
        max_tokens=settings.max_total_tokens,
        retry_failed=settings.retry_failed,
    )


async def _generate(
    settings: GenerateSettings, config: SearchConfig, corpus: dict[str, Any], out: Path
) -> SearchSummary:
    from agenticlu.core.files import write_atomically
    from agenticlu.core.progress import MetricsWriter, Progress
    from agenticlu.data.corpus import LeftOut, load_corpus
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.judges import build_judges
    from agenticlu.search.run import run_search
    from agenticlu.search.settings import bind
    from agenticlu.search.setup import ProgressListener, build_panel, parse_shard
    from agenticlu.search.shards.sealer import Sealer
    from agenticlu.search.store import Store

    # Faults of the input are found before anything is written: they leave no folder and no part of
    # a corpus behind. A hub data set streams, so only its first line is looked at.
    lines = load_corpus(**{**corpus, "left_out": LeftOut()})
    for _ in itertools.islice(lines, None if Path(corpus["source"]).exists() else 1):
        pass
    items = load_corpus(**corpus)
    profile = load_profile(config.profile)
    progress = Progress("questions", quiet=settings.quiet)
    limits, shard, choice = _limits(settings), parse_shard(settings.shard), settings.engine_choice()
    judge_engines = [one.load_judge(limits, progress.warn) for one in judge_choices(settings)]
    build_judges(config.judges, build_panel(judge_engines))
    tokenizer = choice.tokenizer(settings.tokenizer)
    sealer = None if settings.seal is None else Sealer(out, settings.seal, shard)
    async with contextlib.AsyncExitStack() as stack:
        sampler = choice.load_limited(limits, progress.warn)
        stack.push_async_callback(sampler.close)
        if sealer is not None:
            stack.push(sealer.end)  # after the store has written all and is closed
        store = stack.enter_context(Store(out))
        config = bind(store, config, profile, tokenizer=tokenizer.name)
        write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
        metrics = stack.enter_context(MetricsWriter(out / "metrics.jsonl"))
        stack.enter_context(progress)
        if sealer is not None:
            sealer.say = progress.warn
            source = public_address(str(settings.seal))
            progress.say(f"{sealer.take_up(store)} segments taken up from {source}")
        listener = ProgressListener(progress, metrics, corpus["left_out"])
        panel = build_panel(judge_engines, store, limits=limits)
        for judge in panel:
            stack.push_async_callback(judge.close)
        if sealer is not None:
            await stack.enter_async_context(sealer.every(settings.seal_every * 60))
        return await run_search(
            items,
            sampler,
            store,
            config,
            tokenizer=tokenizer,
            judges=build_judges(config.judges, panel),
            limits=limits,
            shard=shard,
            progress=listener,
        )


def _generate_on_ray(
    settings: GenerateSettings,
    config: SearchConfig,
    corpus: dict[str, Any],
    out: Path,
    workers: int,
) -> SearchSummary:
    from agenticlu.core.files import write_atomically
    from agenticlu.core.progress import MetricsWriter, Progress
    from agenticlu.data.corpus import LeftOut, load_corpus
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.judges import build_judges
    from agenticlu.search.run import summarise
    from agenticlu.search.setup import ProgressListener, build_panel, parse_shard
    from agenticlu.search.shards.ray import RayJob, search_on_ray
    from agenticlu.search.store import Store

    if settings.ray_address is not None and settings.seal is None:
        raise UsageError(
            "Workers on other machines need a shared folder or URL for their results.",
            hint="Add --seal /shared/segments or a URL.",
        )
    shard = parse_shard(settings.shard)
    choice, judges = settings.engine_choice(), judge_choices(settings)

    def items(left_out: LeftOut) -> Iterator[Item]:
        found = load_corpus(**{**corpus, "left_out": left_out})
        return (one for one in found if shard is None or shard.holds(one.document.id))

    # Faults of the input are found before anything is written: they leave no folder behind.
    load_profile(config.profile)
    build_judges(config.judges, build_panel([one.load_judge() for one in judges]))
    choice.check()
    import ray  # noqa: F401  # fails before anything is written

    num_questions = sum(1 for _ in items(corpus["left_out"]))
    write_atomically(out / "config.json", config.model_dump_json(indent=2) + "\n")
    job = RayJob(
        config=config,
        sealed=settings.seal or str((out / "segments").resolve()),
        engine=choice,
        judges=judges,
        limits=_limits(settings),
        tokenizer=settings.tokenizer,
    )
    bar = Progress("questions", quiet=settings.quiet)
    with MetricsWriter(out / "metrics.jsonl") as metrics, bar:
        listener = ProgressListener(bar, metrics, corpus["left_out"])
        search_on_ray(
            items(LeftOut()),  # counted above
            out,
            job,
            workers,
            settings.ray_address,
            progress=listener,
            num_questions=num_questions,
        )
    with Store(out, writable=False) as store:
        return summarise(store)


def _print_summary(summary: SearchSummary, out: Path, as_json: bool) -> None:
    if as_json:
        echo_json(summary.as_dict())
    else:
        echo(render(summary, out))


def render(summary: SearchSummary, out: Path) -> str:
    """Returns the summary for people."""
    from agenticlu.search.status import render_cut

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
    for name, numbers in data["chosen"].items():
        shares = ", ".join(f"{value} ({number})" for value, number in numbers.items())
        lines.append(f"  {name} chosen: {shares}")
    lines.append(
        f"{summary.nodes} nodes ({summary.failed_nodes} failed, {summary.unscored_nodes} unscored)"
        + (": --retry-failed asks the judges again" if summary.unscored_nodes else "")
    )
    if summary.empty_nodes:
        lines.append(f"  empty answers: {summary.empty_nodes:,}")
    if summary.shortfall:
        lines.append(f"  clarifications wanted and not found: {summary.shortfall:,}")
    header = ["requests", "computed", "cached", "sampled"]
    thinks = summary.total.thinking_tokens > 0
    rows: list[tuple[str, Sequence[object]]] = [("phase", header + ["thought"] * thinks)]
    for name, usage in (*summary.usage.items(), ("total", summary.total)):
        computed = usage.prompt_tokens - usage.cached_tokens
        spent = [usage.requests, computed, usage.cached_tokens, usage.completion_tokens]
        rows.append((name, spent + [usage.thinking_tokens] * thinks))
    lines += [f"{name:>12} {' '.join(f'{cell:>10}' for cell in cells)}" for name, cells in rows]
    if more := render_cut(summary.cut, running=False):
        lines.append(f"{'':>13}and {more}")
    if summary.setup.requests:
        lines.append(f"  {render_setup(summary.setup)}")
    lines.append(f"Kept in {out}. {_next_step(summary, shlex.quote(str(out)))}")
    return "\n".join(lines)


def _next_step(summary: SearchSummary, run: str) -> str:
    from agenticlu.data.teaching import advise

    if summary.outcomes and not summary.solved_by_depth:
        return (
            "No question was solved, so there is nothing to learn from yet. "
            f"{advise(summary.outcomes)} What became of them: agenticlu status {run}"
        )
    return f"Next: agenticlu dataset build {run} --out DIR"


class MergeSettings(Settings):
    """Settings of `agenticlu generate merge`."""

    out: Annotated[Path, Spelling(metavar="RUN")]
    """Run folder to merge into."""


@settings_command(MergeSettings, "generate.merge", group=command)
@operand("sources", nargs=-1, required=True)
def merge(resolved: Resolved[MergeSettings], sources: tuple[str, ...]) -> None:
    """Merge run folders, segments, or folders or URLs of segments into the run OUT."""
    from agenticlu.core.files import check_owner
    from agenticlu.search.shards.merge import merge_runs

    out = resolved.values.out
    check_owner(out, "generate")
    found = merge_runs(out, sources)
    echo(
        f"{found.sources} parts merged into {out}: {found.questions} questions, {found.trees} trees"
    )


class ReplaySettings(ReplayConfig, JudgeSettings, JsonSettings):
    """Settings of `agenticlu generate replay`; the defaults are those of the run."""

    retry_failed: bool = False
    """Ask judges again that gave no verdict before."""


@settings_command(ReplaySettings, "generate.replay", group=command)
@operand("run", type=click.Path(path_type=Path))
def replay(resolved: Resolved[ReplaySettings], run: Path) -> None:
    """Rebuild the trees of RUN from its ledger, with other judges or settings; samples nothing.

    Settings not given stay as they are in RUN. What the ledger lacks under other settings is left
    out, up to whole trees. The rebuilt trees replace the stored ones; a replay with the old
    settings brings those back, and running the search with the new ones asks for the rest. Where
    RUN cannot be written, nothing is replaced.
    """
    from agenticlu.search.setup import check_judges

    settings = resolved.values
    changes = {
        name: getattr(settings, name)
        for key, name in (("judge" if n == "judges" else n, n) for n in ReplayConfig.model_fields)
        if resolved.origins[key] != "default"
    }
    judges = changes.get("judges", ())
    check_judges(settings.judge_model, judges or ("those of the run",))
    if settings.retry_failed and "llm" not in judges:
        raise UsageError(
            "--retry-failed has no effect here: a replay sends requests only to model judges.",
            hint="Add --judge llm --judge-model NAME.",
        )
    _print_summary(asyncio.run(_replay(run, changes, settings)), run, settings.as_json)


async def _replay(run: Path, changes: dict[str, Any], settings: ReplaySettings) -> SearchSummary:
    from agenticlu.core.files import is_writable
    from agenticlu.judges import build_judges
    from agenticlu.search.run import Limits, replay
    from agenticlu.search.settings import load_run
    from agenticlu.search.setup import open_panel
    from agenticlu.search.store import Store

    config = change(load_run(run)[0], changes)
    limits = Limits(patience_s=settings.patience, retry_failed=settings.retry_failed)
    if not settings.judge_model and not is_writable(run):
        _warn(f"{run} cannot be written: its trees stay as they are.")
        with Store(run, writable=False) as store:
            chosen = build_judges(config.judges) if "judges" in changes else None
            return (await replay(store, config, chosen))[1]
    with Store(run) as store:
        async with open_panel(judge_choices(settings), store, limits, _warn) as panel:
            chosen = build_judges(config.judges, panel) if "judges" in changes else None
            trees, summary = await replay(
                store,
                config,
                chosen,
                judging=chosen is not None,
                retry_failed=limits.retry_failed,
            )
        for tree in trees:
            await store.finish_tree(tree, finished=tree.id not in summary.incomplete)
        await store.keep_trees({tree.id for tree in trees})
        store.put(config=config.model_dump(mode="json"))
        if chosen is not None:
            store.put(judges=[judge.name for judge in chosen])
    return summary


class ControlsSettings(JudgeSettings, JsonSettings):
    """Settings of `agenticlu generate controls`."""

    limit: Positive = 200
    """Maximum number of questions."""


@settings_command(ControlsSettings, "generate.controls", group=command)
@operand("run", type=click.Path(path_type=Path))
def controls(resolved: Resolved[ControlsSettings], run: Path) -> None:
    """Test RUN's judges on accepted answers and on answers to other questions.

    Cards of data sets built from RUN afterwards show the result.
    """
    settings = resolved.values
    results = asyncio.run(_run_controls(run, settings))
    if settings.as_json:
        echo_json(results)
        return
    for name, sides in results.items():
        right, wrong = (
            f"{side['correct']} of {side['n']}"
            + (f" ({side['unscored']} unscored)" if side["unscored"] else "")
            for side in (sides["right"], sides["wrong"])
        )
        echo(f"{name}: accepted answers found right {right}; others found wrong {wrong}")


async def _run_controls(run: Path, settings: ControlsSettings) -> dict[str, Any]:
    from agenticlu.judges.controls import choose_controls, find_run_judges, run_controls
    from agenticlu.search.run import Limits
    from agenticlu.search.settings import load_run
    from agenticlu.search.setup import open_panel
    from agenticlu.search.store import Store

    load_run(run)  # a folder without a run is an error before it is opened for writing
    limits = Limits(patience_s=settings.patience)
    with Store(run) as store:
        async with open_panel(judge_choices(settings), store, limits, _warn) as panel:
            chosen = choose_controls(store.questions(), settings.limit)
            return await run_controls(store, find_run_judges(store, panel), chosen)


def _warn(text: str) -> None:
    echo(text, err=True)
