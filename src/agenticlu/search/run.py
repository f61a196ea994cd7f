"""Runs a search over a corpus, into a store; replays it out of the store.

Running the same search again goes on where it stopped: what the ledger holds is not asked again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.core.errors import DocumentError, StoreError
from agenticlu.core.records import Node, Question, Tree, Usage
from agenticlu.data.corpus import Item
from agenticlu.dialogue.profiles import Profile, load_profile
from agenticlu.documents import split
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import Engine
from agenticlu.engines.breaker import Breaker
from agenticlu.judges.panel import BUILT_IN, Judge, RecordedJudge, build_judges, solved_depth
from agenticlu.search.caller import Admission, Caller
from agenticlu.search.config import BOUND_SETTINGS, SearchConfig
from agenticlu.search.grounding import Grounder, Source
from agenticlu.search.heartbeat import Heartbeat
from agenticlu.search.slots import Slots
from agenticlu.search.store import Store
from agenticlu.search.tree import TreeSearch

DEFAULT_PARALLEL = 16
"""Questions that grow at the same time."""
OPEN_PER_SLOT = 4
"""Questions begun for each that may be at work; the others wait for their judges."""


@dataclass(frozen=True)
class Shard:
    """A share of the documents, by the hash of their id."""

    index: int
    """From 0."""
    count: int

    def holds(self, document_id: str) -> bool:
        """Whether a document belongs to this shard; every document belongs to exactly one."""
        digest = hashlib.sha256(document_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index


@dataclass
class SearchSummary:
    """What a run came to; see `as_dict` for the names in JSON."""

    questions: int = 0
    lines_left_out: int = 0
    """Lines of the corpus without an accepted answer; known to the process that read it."""
    outcomes: dict[str, int] = field(default_factory=dict)
    solved_by_depth: dict[int, int] = field(default_factory=dict)
    """Depth to questions whose first right answer is there; 0 is the direct answer."""
    scored: int = 0
    """Questions with at least one scored node."""
    nodes: int = 0
    failed_nodes: int = 0
    unscored_nodes: int = 0
    shortfall: int = 0
    """Clarifications wanted and not found."""
    incomplete: set[str] = field(default_factory=set)
    """Ids of trees of which a replay did not find everything."""
    gold_recall: float | None = None
    """Share of gold pieces that grounding kept somewhere in the tree; None when gold is unknown."""
    usage: dict[str, Usage] = field(default_factory=dict)
    """By phase."""
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def recall_by_depth(self) -> dict[int, float]:
        """Share of the scored questions with a right answer at a depth or above it."""
        if not self.scored:
            return {}
        deepest = max(self.solved_by_depth, default=0)
        counts = [self.solved_by_depth.get(depth, 0) for depth in range(deepest + 1)]
        return {d: sum(counts[: d + 1]) / self.scored for d in range(deepest + 1)}

    @property
    def total(self) -> Usage:
        """Cost over all phases."""
        return sum(self.usage.values(), Usage())

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON data, tokens by phase included."""
        total = self.total
        solved = self.outcomes.get("solved", 0) + self.outcomes.get("too-easy", 0)
        return {
            "questions": self.questions,
            "lines_left_out": self.lines_left_out,
            "outcomes": dict(sorted(self.outcomes.items())),
            "solved_by_depth": {str(d): n for d, n in sorted(self.solved_by_depth.items())},
            "recall_by_depth": {str(d): round(r, 4) for d, r in self.recall_by_depth.items()},
            "scored_questions": self.scored,
            "nodes": self.nodes,
            "failed_nodes": self.failed_nodes,
            "unscored_nodes": self.unscored_nodes,
            "clarification_shortfall": self.shortfall,
            "incomplete_trees": len(self.incomplete),
            "gold_recall": None if self.gold_recall is None else round(self.gold_recall, 4),
            "tokens": total.as_dict(),
            "tokens_by_phase": {name: usage.as_dict() for name, usage in self.usage.items()},
            "computed_tokens_per_solved": round(total.computed_tokens / solved) if solved else None,
            "calls": self.calls,
        }


class Listener:
    """What a run tells while it works; all methods do nothing unless overridden."""

    def start(self, questions: int) -> None:
        """The number of questions is known."""

    def node(self, node: Node) -> None:
        """A node is finished."""

    def tree(self, tree: Tree) -> None:
        """A tree is finished."""

    def say(self, text: str) -> None:
        """Something a person should read, such as a pause."""


@dataclass(frozen=True)
class Limits:
    """What bounds a run from outside; changes no result."""

    parallel: int = DEFAULT_PARALLEL
    """Questions that grow at the same time; those that wait for a judge do not count."""
    prompt_tokens_in_flight: int = 400_000
    requests_in_flight: int = 256
    patience_s: float = 900.0
    """Seconds without any success until the run gives up."""
    max_tokens: int | None = None
    """Computed tokens of this process at most."""
    retry_failed: bool = False


def ingest(
    corpus: Iterable[Item],
    store: Store,
    tokenizer: Tokenizer,
    config: SearchConfig,
    shard: Shard | None = None,
) -> int:
    """Stores a corpus: documents once, split; questions with their gold pieces.

    Returns:
        The number of questions stored or already there.
    """
    count = 0
    for item in corpus:
        if shard is not None and not shard.holds(item.document.id):
            continue
        if not store.has_document(item.document.id):
            pieces = split(item.document, tokenizer, config.piece_tokens)
            if not pieces:
                raise DocumentError(f"Line {item.position + 1} holds an empty document.")
            store.add_document(item.document, pieces)
        question = item.question_over(store.pieces(item.document.id))
        store.add_question(question, item.document.id, item.position)
        count += 1
    return count


def bind(store: Store, config: SearchConfig, profile: Profile, **settings: Any) -> None:
    """Writes the settings of a run, or refuses ones that its calls were not made under.

    Raises:
        StoreError: The folder holds a run with another value of a bound setting.
    """
    wanted: dict[str, Any] = {name: getattr(config, name) for name in BOUND_SETTINGS}
    wanted["profile"] = profile.label
    wanted.update(settings)
    bound = store.get("bound") or {}
    for name in wanted.keys() & bound.keys():
        _refuse_other(store, name, bound[name], wanted[name])
    store.put(
        bound={**bound, **wanted},
        config=config.model_dump(mode="json"),
        profile=profile.model_dump(mode="json"),
    )


def _refuse_other(store: Store, name: str, own: Any, wanted: Any) -> None:
    if own != wanted:
        raise StoreError(
            f"{store.folder} was started with {name} = {own!r}, not {wanted!r}; its calls would "
            "not be found again.",
            hint="Use the same value, or give --out (and --seal) another folder."
            if store.call_counts()["done"]
            else "Nothing has been answered in it yet: remove it, or use the same value.",
        )


async def run_search(
    corpus: Iterable[Item],
    engine: Engine,
    store: Store,
    config: SearchConfig,
    *,
    tokenizer: Tokenizer,
    judges: Sequence[Judge] | None = None,
    limits: Limits | None = None,
    shard: Shard | None = None,
    progress: Listener | None = None,
) -> SearchSummary:
    """Grows a tree for every question of a corpus.

    Args:
        corpus: Questions about documents; empty to go on with what the store holds.
        engine: Samples.
        store: Open for writing.
        config: What to search.
        tokenizer: Splits documents; should be the engine's own.
        judges: Judge answers; None builds those that the configuration names.
        limits: Bounds from outside.
        shard: Share of the documents to work on.
        progress: Told of what happens.

    Raises:
        EngineError: The engine is away for longer than patience, or refused the key or the model.
        StoreError: The disk is full, or the store was started with other settings.
        BudgetExceededError: A limit was reached. Everything finished is kept in each case.
    """
    limits = limits or Limits()
    progress = progress or Listener()
    profile = load_profile(config.profile)
    judges = build_judges(config.judges) if judges is None else judges
    bind(store, config, profile, tokenizer=tokenizer.name)
    store.put(judges=[judge.name for judge in judges])

    async def meet() -> None:
        found = await engine.capabilities()
        bind(store, config, profile, engine=engine.name)
        for note in found.notes:
            progress.say(note)

    ingest(corpus, store, tokenizer, config, shard)
    caller = Caller(
        store,
        engine,
        admission=Admission(limits.prompt_tokens_in_flight, limits.requests_in_flight),
        breaker=Breaker(limits.patience_s, progress.say),
        retry_failed=limits.retry_failed,
        max_spent_tokens=limits.max_tokens,
        before_first=meet,
    )
    questions = store.questions()
    progress.start(len(questions))
    async with Heartbeat(store, engine, lambda: caller.admission.requests):
        return await _grow_all(
            questions, caller, profile, config, judges, limits.parallel, progress
        )


async def replay(
    store: Store,
    config: SearchConfig | None = None,
    judges: Sequence[Judge] | None = None,
    *,
    judging: bool = False,
    retry_failed: bool = False,
) -> tuple[list[Tree], SearchSummary]:
    """Rebuilds the trees from the ledger alone; no engine is asked.

    Args:
        store: A run.
        config: Other settings than the run's own, for example another growth or threshold; what
            the ledger lacks is left out.
        judges: Other judges than the run's own.
        judging: Let those judges ask their models; the store must be open for writing.
        retry_failed: Let them ask again where a verdict could not be had before.

    Returns:
        Trees in corpus order, as far as they were grown, and their summary.

    Raises:
        StoreError: The settings are such that none of the recorded calls could be found.
    """
    config = config or SearchConfig.model_validate(store.get("config"))
    profile = Profile.model_validate(store.get("profile"))
    own = SearchConfig.model_validate(store.get("config"))
    for name in BOUND_SETTINGS:
        _refuse_other(store, name, getattr(own, name), getattr(config, name))
    if judges is None:
        names = store.get("judges") or list(config.judges)
        judges = [build_judges([n])[0] if n in BUILT_IN else RecordedJudge(n) for n in names]
    kept: list[Tree] = []

    class Keep(Listener):
        def tree(self, tree: Tree) -> None:
            kept.append(tree)

    questions = store.questions()
    order = {question.id: i for i, (question, _) in enumerate(questions)}
    summary = await _grow_all(
        questions,
        Caller(store, None, judging=judging, retry_failed=retry_failed),
        profile,
        config,
        judges,
        DEFAULT_PARALLEL if judging else 1,
        Keep(),
    )
    counts = store.tree_counts()
    if not kept and counts["growing"] + counts["done"]:
        raise StoreError(
            f"{store.folder} holds no call that these settings would make; nothing was changed.",
            hint="Give the settings that the search was made with, or ask for what is missing: "
            "agenticlu generate with these.",
        )
    return sorted(kept, key=lambda tree: order[tree.question.id]), summary


async def _grow_all(
    questions: Sequence[tuple[Question, str]],
    caller: Caller,
    profile: Profile,
    config: SearchConfig,
    judges: Sequence[Judge],
    parallel: int,
    progress: Listener,
) -> SearchSummary:
    summary = SearchSummary(questions=len(questions))
    grounders: dict[str, Grounder] = {}
    left: dict[str, int] = {}
    for _, document_id in questions:
        left[document_id] = left.get(document_id, 0) + 1
    waiting = iter(_by_document(questions))
    golds: list[float] = []

    slots = Slots(max(1, parallel))

    async def work() -> None:
        while True:
            await slots.enter()
            entry = next(waiting, None)
            if entry is None:
                slots.open()
                return
            question, document_id = entry
            if document_id not in grounders:
                source = Source(
                    caller.store.document(document_id), caller.store.pieces(document_id)
                )
                grounders[document_id] = Grounder(source, profile, config, caller)
            search = TreeSearch(
                question,
                grounders[document_id],
                profile,
                config,
                caller,
                judges,
                progress.node,
                slots,
            )
            tree = await search.grow()
            left[document_id] -= 1
            if not left[document_id]:
                del grounders[document_id]
            if tree is not None:
                _add(summary, tree, golds)
                if not search.is_complete:
                    summary.incomplete.add(tree.id)
                progress.tree(tree)

    most_open = min(OPEN_PER_SLOT * slots.limit, len(questions))
    tasks = [asyncio.create_task(work()) for _ in range(most_open)]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await caller.cancel()
        raise
    summary.gold_recall = sum(golds) / len(golds) if golds else None
    summary.usage = caller.store.usage_by_phase()
    summary.calls = caller.store.call_counts()
    return summary


def _by_document(questions: Sequence[tuple[Question, str]]) -> list[tuple[Question, str]]:
    """Orders questions document by document, so that a document is worked on in one stretch."""
    first: dict[str, int] = {}
    for position, (_, document_id) in enumerate(questions):
        first.setdefault(document_id, position)
    return sorted(questions, key=lambda entry: first[entry[1]])


def _add(summary: SearchSummary, tree: Tree, golds: list[float]) -> None:
    summary.outcomes[tree.outcome] = summary.outcomes.get(tree.outcome, 0) + 1
    summary.nodes += len(tree.nodes)
    summary.shortfall += tree.shortfall
    summary.failed_nodes += sum(node.status == "failed" for node in tree.nodes)
    summary.unscored_nodes += sum(
        node.status == "done" and node.score is None for node in tree.nodes
    )
    depth = solved_depth(tree)
    if depth is not None:
        summary.solved_by_depth[depth] = summary.solved_by_depth.get(depth, 0) + 1
    if any(node.score is not None for node in tree.nodes):
        summary.scored += 1
    gold = set(tree.question.gold_pieces or ())
    if gold:
        kept = {piece for node in tree.nodes for piece in node.kept}
        golds.append(len(gold & kept) / len(gold))


def summarise(store: Store) -> SearchSummary:
    """Returns the summary of what a store holds."""
    summary = SearchSummary(questions=store.tree_counts()["questions"])
    golds: list[float] = []
    for tree in store.trees():
        _add(summary, tree, golds)
    summary.gold_recall = sum(golds) / len(golds) if golds else None
    summary.usage = store.usage_by_phase()
    summary.calls = store.call_counts()
    return summary


def load_run(run: str | Path) -> tuple[SearchConfig, Profile]:
    """Returns the settings and the profile that a run was made with."""
    with Store(run, writable=False) as store:
        return read_settings(store)


def read_settings(store: Store) -> tuple[SearchConfig, Profile]:
    """Returns the settings and the profile that a store's run was made with.

    Raises:
        StoreError: The search never began, or its settings cannot be read.
    """
    config, profile = store.get("config"), store.get("profile")
    if config is None or profile is None:
        raise StoreError(
            f"{store.folder} holds no search: it was prepared, but never started.",
            hint=f"Start it: agenticlu generate CORPUS --out {store.folder}",
        )
    try:
        return SearchConfig.model_validate(config), Profile.model_validate(profile)
    except ValueError as error:
        raise StoreError(f"The settings in {store.path} cannot be read: {error}") from error
