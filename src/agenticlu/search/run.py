"""Runs a search over a corpus into a store, and replays it from the store alone.

Running the same search again continues where it stopped: calls in the ledger are not made again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from agenticlu.core.errors import DocumentError, StoreError
from agenticlu.core.records import Node, Question, Tree, Usage
from agenticlu.data.corpus import Item
from agenticlu.dialogue.run import ShownDocument, control_tokens
from agenticlu.dialogue.steps import Profile, load_profile
from agenticlu.documents import split
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import Engine, adaptations_of, effort_of, setup_of
from agenticlu.engines.retry import LimitedEngine, Limiter, RetryPolicy
from agenticlu.judges import BUILT_IN, Judge, RecordedJudge, build_judges, solved_depth
from agenticlu.search import BOUND_SETTINGS, SearchConfig
from agenticlu.search.adapt import Chooser, Facts, find_facts, read_facts
from agenticlu.search.caller import Caller
from agenticlu.search.cost import PromptSizes
from agenticlu.search.grounding import Grounder
from agenticlu.search.growth import Slots
from agenticlu.search.settings import bind, read_settings, refuse_other
from agenticlu.search.status import Heartbeat
from agenticlu.search.store import Store
from agenticlu.search.tree import TreeSearch, name_tree

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
    """Counts and cost of a run; see `as_dict` for the names in JSON."""

    questions: int = 0
    lines_left_out: int = 0
    """Lines of the corpus without an accepted answer; known to the process that read it."""
    outcomes: Counter[str] = field(default_factory=Counter)
    solved_by_depth: Counter[int] = field(default_factory=Counter)
    """Depth to questions whose first right answer is there; 0 is the direct answer."""
    scored: int = 0
    """Questions with at least one scored node."""
    nodes: int = 0
    failed_nodes: int = 0
    unscored_nodes: int = 0
    empty_nodes: int = 0
    """Whose answer is empty, though the engine replied."""
    shortfall: int = 0
    """Clarifications wanted and not found."""
    incomplete: set[str] = field(default_factory=set)
    """Ids of trees that a replay could not rebuild completely."""
    gold_shares: list[float] = field(default_factory=list)
    """Of each question whose gold pieces are known: the share of them that grounding kept somewhere
    in the tree."""
    chosen: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each setting that says `auto`: questions by what was chosen for them."""
    usage: dict[str, Usage] = field(default_factory=dict)
    """By phase."""
    cut: dict[str, Usage] = field(default_factory=dict)
    """By phase: the most that calls cost beside `usage` that were cut off."""
    calls: dict[str, int] = field(default_factory=dict)
    setup: Usage = field(default_factory=Usage)
    """The part of this process's cost that found out about the engine."""

    def add(self, tree: Tree) -> None:
        """Counts a tree."""
        self.outcomes[tree.outcome] += 1
        self.nodes += len(tree.nodes)
        self.shortfall += tree.shortfall
        self.failed_nodes += sum(node.status == "failed" for node in tree.nodes)
        self.unscored_nodes += sum(n.status == "done" and n.score is None for n in tree.nodes)
        self.empty_nodes += sum(n.status == "done" and not n.answer.strip() for n in tree.nodes)
        for name, value in tree.chosen.items():
            self.chosen.setdefault(name, Counter())[value] += 1
        depth = solved_depth(tree)
        if depth is not None:
            self.solved_by_depth[depth] += 1
        self.scored += any(node.score is not None for node in tree.nodes)
        gold = set(tree.question.gold_pieces or ())
        if gold:
            kept = {piece for node in tree.nodes for piece in node.kept}
            self.gold_shares.append(len(gold & kept) / len(gold))

    def add_costs(self, store: Store) -> SearchSummary:
        """Takes over what the calls of a store cost, and returns the summary."""
        self.usage, self.calls = store.usage_by_phase(), store.call_counts()
        self.cut = store.cut_by_phase()
        return self

    @property
    def gold_recall(self) -> float | None:
        """Mean share of gold pieces that grounding kept; None when gold is unknown."""
        return fmean(self.gold_shares) if self.gold_shares else None

    @property
    def recall_by_depth(self) -> dict[int, float]:
        """Share of the scored questions with a right answer at a depth or above it."""
        if not self.scored:
            return {}
        deepest = max(self.solved_by_depth, default=0)
        counts = [self.solved_by_depth[depth] for depth in range(deepest + 1)]
        return {d: sum(counts[: d + 1]) / self.scored for d in range(deepest + 1)}

    @property
    def total(self) -> Usage:
        """Cost over all phases."""
        return sum(self.usage.values(), Usage())

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON data, tokens by phase included."""
        total = self.total
        solved = self.outcomes["solved"] + self.outcomes["too-easy"]
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
            "empty_nodes": self.empty_nodes,
            "clarification_shortfall": self.shortfall,
            "incomplete_trees": len(self.incomplete),
            "gold_recall": None if self.gold_recall is None else round(self.gold_recall, 4),
            "chosen": {name: dict(sorted(n.items())) for name, n in sorted(self.chosen.items())},
            "tokens": total.as_dict(),
            "cut": sum(self.cut.values(), Usage()).as_dict(),
            "setup": self.setup.as_dict(),
            "tokens_by_phase": {name: usage.as_dict() for name, usage in self.usage.items()},
            "computed_tokens_per_solved": round(total.computed_tokens / solved) if solved else None,
            "calls": self.calls,
        }


class Listener:
    """Receives the events of a run; all methods do nothing unless overridden."""

    def start(self, questions: int) -> None:
        """The number of questions is known."""

    def node(self, node: Node) -> None:
        """A node is finished."""

    def tree(self, tree: Tree) -> None:
        """A tree is finished."""

    def say(self, text: str) -> None:
        """A message for people, such as that a run pauses."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a run that change no result."""

    parallel: int = DEFAULT_PARALLEL
    """Questions that grow at the same time; those that wait for a judge do not count."""
    prompt_tokens_in_flight: int = 400_000
    requests_in_flight: int = 256
    patience_s: float = 900.0
    """Seconds without any success until the run gives up."""
    max_tokens: int | None = None
    """Maximum computed tokens of the run, those of earlier processes included."""
    retry_failed: bool = False

    def build_limiter(self, say: Callable[[str], None]) -> Limiter:
        """Returns the limiter of the engine that samples; it says when it pauses."""
        admission = Admission(
            self.requests_in_flight, self.prompt_tokens_in_flight, self.max_tokens
        )
        return Limiter(admission, RetryPolicy(patience_s=self.patience_s), say)


def ingest(
    corpus: Iterable[Item],
    store: Store,
    tokenizer: Tokenizer,
    config: SearchConfig,
    shard: Shard | None = None,
) -> None:
    """Stores a corpus: documents once, split; questions with their gold pieces."""
    for item in corpus:
        if shard is not None and not shard.holds(item.document.id):
            continue
        if not store.has_document(item.document.id):
            pieces = split(item.document, tokenizer, config.piece_tokens)
            if not pieces:
                raise DocumentError(
                    f"Line {item.position + 1} of the corpus has an empty document."
                )
            store.add_document(item.document, pieces)
        # Which pieces are gold depends on how the document was split.
        question = item.question_over(store.pieces(item.document.id))
        store.add_question(question, item.document.id, item.position)


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
        corpus: Questions about documents; empty to continue with what the store holds.
        engine: Samples. A `LimitedEngine` keeps its own limits, which several searches may share;
            another gets those of `limits`.
        store: Open for writing.
        config: What to search.
        tokenizer: Splits documents; should be the engine's own.
        judges: Judge answers; None builds those that the configuration names.
        limits: Concurrency, patience and budget.
        shard: Share of the documents to work on.
        progress: Receives events.

    Raises:
        EngineError: The engine is unreachable for longer than patience, or refused the key or the
            model.
        StoreError: The disk is full, or the store was started with other settings.
        BudgetExceededError: A limit was reached. Everything finished is kept in each case.
    """
    limits = limits or Limits()
    progress = progress or Listener()
    if not isinstance(engine, LimitedEngine):
        engine = LimitedEngine(engine, limits.build_limiter(progress.say))
    if limits.max_tokens is not None:
        engine.limiter.admission.count_earlier(store.engine_tokens())
    profile = load_profile(config.profile)
    judges = build_judges(config.judges) if judges is None else judges
    controls = list(control_tokens(tokenizer))  # prompts, and so the calls' keys, depend on them
    config = bind(store, config, profile, tokenizer=tokenizer.name, controls=controls)
    store.put(judges=[judge.name for judge in judges])
    ingest(corpus, store, tokenizer, config, shard)
    meet = partial(_meet, engine, store, config, profile, progress)
    caller = Caller(store, engine, retry_failed=limits.retry_failed, before_first=meet)
    questions = store.questions()
    progress.start(len(questions))
    async with Heartbeat(store, engine, lambda: caller.num_in_flight):
        chooser = Chooser(config, Facts(), PromptSizes.of(profile, tokenizer))
        if questions:
            chooser = replace(chooser, facts=await find_facts(config, caller))
        growing = _Growing(questions, caller, profile, chooser, judges, limits.parallel, progress)
        try:
            summary = await growing.grow()
            summary.setup = setup_of(engine)
            return summary
        finally:
            if adapted := adaptations_of(engine):
                store.put(adapted=sorted({*(store.get("adapted") or ()), *adapted}))


async def _meet(
    engine: Engine, store: Store, config: SearchConfig, profile: Profile, progress: Listener
) -> None:
    """Binds a run to its engine, before the first call that is really sent.

    Only then is the engine's name known for sure, and a finished run needs no server.
    """
    found = await engine.capabilities("token_ids")
    bind(store, config, profile, engine=engine.name, thinking=effort_of(engine))
    for note in found.notes:
        progress.say(note)


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
    own, profile = read_settings(store)
    config = config or own
    for name in BOUND_SETTINGS:
        refuse_other(store, name, getattr(own, name), getattr(config, name))
    if judges is None:
        names = store.get("judges") or list(config.judges)
        # A judge that is a model is replaced by its recorded verdicts.
        judges = [build_judges([n])[0] if n in BUILT_IN else RecordedJudge(n) for n in names]
    kept: list[Tree] = []

    class Keep(Listener):
        def tree(self, tree: Tree) -> None:
            kept.append(tree)

    questions = store.questions()
    order = {question.id: i for i, (question, _) in enumerate(questions)}
    caller = Caller(store, None, judging=judging, retry_failed=retry_failed)
    # Unless a judge is asked, a replay waits for nothing: more at a time would only hold more
    # documents in memory.
    parallel = DEFAULT_PARALLEL if judging else 1
    chooser = Chooser(config, read_facts(store) or Facts(), None)
    growing = _Growing(questions, caller, profile, chooser, judges, parallel, Keep())
    summary = await growing.grow()
    counts = store.tree_counts()
    if not kept and counts["growing"] + counts["done"]:
        raise StoreError(
            f"{store.folder} holds no call that these settings would make; nothing was changed.",
            hint="Use the settings of the search itself, or run agenticlu generate with these to "
            "make the missing calls.",
        )
    return sorted(kept, key=lambda tree: order[tree.question.id]), summary


class _Growing:
    """Grows the trees of many questions, up to `parallel` at a time."""

    def __init__(
        self,
        questions: Sequence[tuple[Question, str]],
        caller: Caller,
        profile: Profile,
        chooser: Chooser,
        judges: Sequence[Judge],
        parallel: int,
        progress: Listener,
    ) -> None:
        self._caller = caller
        self._profile = profile
        self._chooser = chooser
        self._judges = judges
        self._progress = progress
        self._told: set[str] = set()
        self._slots = Slots(max(1, parallel))
        self._summary = SearchSummary(questions=len(questions))
        self._waiting = iter(_sort_by_document(questions))
        self._grounders: dict[str, dict[str, Grounder]] = {}
        """By document, of those with a question under way, and by method; each holds the document
        and its pieces."""
        self._left = Counter(document_id for _, document_id in questions)
        """Questions of each document that are not finished."""

    async def grow(self) -> SearchSummary:
        """Grows all trees and returns their summary."""
        num_open = min(OPEN_PER_SLOT * self._slots.limit, self._summary.questions)
        tasks = [asyncio.create_task(self._work()) for _ in range(num_open)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            # The store is closed once we are gone: nothing may still be writing to it then, neither
            # the trees nor the calls that several of them share.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._caller.cancel()
            raise
        return self._summary.add_costs(self._caller.store)

    async def _work(self) -> None:
        while True:
            await self._slots.enter()
            # No await from here until the search holds its slot: see `Slots.enter`.
            entry = next(self._waiting, None)
            if entry is None:
                self._slots.open()
                return
            await self._grow_one(*entry)

    async def _grow_one(self, question: Question, document_id: str) -> None:
        grounders = self._grounders.setdefault(document_id, {})
        shown = next((one.shown for one in grounders.values()), None) or self._show(document_id)
        config, chosen = self._settle(question, shown)
        if config.grounding not in grounders:
            grounder = Grounder(shown, self._profile, config, self._caller)
            grounders[config.grounding] = grounder
        search = TreeSearch(
            question,
            grounders[config.grounding],
            self._profile,
            config,
            self._caller,
            self._judges,
            self._progress.node,
            self._slots,
            chosen,
        )
        tree = await search.grow()
        self._left[document_id] -= 1
        if not self._left[document_id]:
            del self._grounders[document_id]
        if tree is not None:
            self._summary.add(tree)
            if not search.is_complete:
                self._summary.incomplete.add(tree.id)
            self._progress.tree(tree)

    def _show(self, document_id: str) -> ShownDocument:
        store = self._caller.store
        controls = tuple((store.get("bound") or {}).get("controls", ()))
        return ShownDocument(store.document(document_id), store.pieces(document_id), controls)

    def _settle(
        self, question: Question, shown: ShownDocument
    ) -> tuple[SearchConfig, dict[str, str]]:
        """Returns the settings of a question's tree, and those of them that were chosen for it."""
        config = self._chooser.config
        tree_id = name_tree(shown.document.id, question.id, config)
        chosen = self._caller.store.read_chosen(tree_id)
        if chosen is None:
            pieces = [piece.num_tokens for piece in shown.pieces]
            chosen = self._chooser.choose(pieces)
            for line in self._chooser.explain(chosen, pieces):
                if line not in self._told:
                    self._told.add(line)
                    self._progress.say(line)
        left_open = {name: chosen[name] for name in chosen if getattr(config, name) == "auto"}
        return config.model_copy(update=left_open), chosen


def _sort_by_document(questions: Sequence[tuple[Question, str]]) -> list[tuple[Question, str]]:
    """Orders questions document by document, so that a document is worked on in one stretch."""
    first: dict[str, int] = {}
    for position, (_, document_id) in enumerate(questions):
        first.setdefault(document_id, position)
    return sorted(questions, key=lambda entry: first[entry[1]])


def summarise(store: Store) -> SearchSummary:
    """Returns the summary of what a store holds."""
    summary = SearchSummary(questions=store.tree_counts()["questions"])
    for tree in store.trees():
        summary.add(tree)
    return summary.add_costs(store)
