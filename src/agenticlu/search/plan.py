"""Predicts the cost of a search before it runs.

Requests are counted by the rules that the search follows: for `full` growth they equal the run's
own counters (as long as no two clarifications are alike). The other growths stop early, so
they are given as a range: the least is one expansion of every root, the most is when no question
is solved. Calls of judges are an upper bound. Tokens are estimated from the corpus and the prompts,
with lengths of replies that are assumed, or measured in another run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.core.records import Prices, Usage
from agenticlu.data.corpus import Item
from agenticlu.dialogue.run import render_relevance
from agenticlu.dialogue.steps import Profile, Wording, load_profile
from agenticlu.documents import split
from agenticlu.documents.tokens import TEMPLATE_TOKENS, Tokenizer
from agenticlu.judges import render_judgement
from agenticlu.search import SearchConfig
from agenticlu.search.run import Shard, read_settings
from agenticlu.search.status import load_rate
from agenticlu.search.store import Store

REPLY_TOKENS: Mapping[str, float] = {
    "direct": 40,
    "clarify": 20,
    "point": 12,
    "sub_answer": 40,
    "answer": 40,
    "check": 2,
    "judge": 60,
    "published verdict": 60,
    "line": 4,
}
"""Assumed lengths of replies; a line is one of `scan-many`."""
ROUND = ("clarify", "sub_answer", "answer", "check")
"""Phases of a round that are sampled."""
KEPT_SHARE = 0.1
"""Assumed share of the pieces that grounding keeps, before the cap."""
MARK_TOKENS = 8
"""Tokens of the marks around a piece."""


@dataclass(frozen=True)
class MeasuredLengths:
    """Lengths of replies and kept pieces measured in another run, in place of assumed ones."""

    reply_tokens: Mapping[str, float] = field(default_factory=dict)
    """As `REPLY_TOKENS`; what is missing is assumed."""
    fresh_tokens: Mapping[str, float] = field(default_factory=dict)
    """Prompt tokens of a request that had to be computed, by phase; what is missing follows from
    the prompts, as if no two nodes kept the same pieces."""
    kept_pieces: float | None = None
    """Mean over the nodes; None: assumed."""
    tokens_per_s: float | None = None

    def reply(self, kind: str) -> float:
        """Returns the length of a reply."""
        return self.reply_tokens.get(kind, REPLY_TOKENS[kind])


def load_measured(run: str | Path) -> MeasuredLengths:
    """Reads lengths, kept pieces and the rate off a run.

    Raises:
        StoreError: The folder holds no run, or one that was never started.
    """
    with Store(run, writable=False) as store:
        config, _ = read_settings(store)
        usage = store.usage_by_phase()
        nodes = [node for tree in store.trees() for node in tree.nodes if node.status == "done"]
    grown = sum(node.depth > 0 for node in nodes)
    verdicts = {"as-published": "published verdict", "point": "point"}
    lengths: dict[str, float] = {}
    fresh: dict[str, float] = {}
    for phase, spent in usage.items():
        kind = verdicts.get(config.grounding, "") if phase == "ground" else phase
        # A request for clarifications brings several; merged ones are paid for by those kept.
        replies = grown if phase == "clarify" else spent.requests
        if kind in REPLY_TOKENS and replies:
            lengths[kind] = spent.completion_tokens / replies
        if phase in ROUND and spent.requests:
            fresh[phase] = (spent.prompt_tokens - spent.cached_tokens) / spent.requests
    return MeasuredLengths(
        reply_tokens=lengths,
        fresh_tokens=fresh,
        kept_pieces=sum(len(node.kept) for node in nodes) / len(nodes) if nodes else None,
        tokens_per_s=load_rate(run),
    )


@dataclass
class SearchCost:
    """Requests and tokens of one scenario."""

    requests: Counter[str] = field(default_factory=Counter)
    """By phase."""
    judge_calls: int = 0
    """Calls of models that judge, at most: one for each answer and model, if no answer is repeated,
    empty or an exact match. A verdict that cannot be parsed is asked for again."""
    judge_tokens: int = 0
    """Prompt and sampled tokens of those calls; their price is not in `price`."""
    prefill_tokens: int = 0
    """Prompt tokens that have to be computed."""
    cached_tokens: int = 0
    """Prompt tokens that an engine with a prefix cache has read before."""
    decoded_tokens: int = 0

    @property
    def total_requests(self) -> int:
        """Requests of all phases, without those of judges."""
        return self.requests.total()

    def add(self, phase: str, requests: int, prefill: float, cached: float, decoded: float) -> None:
        """Adds requests of a phase, with their tokens in total."""
        self.requests[phase] += requests
        self.prefill_tokens += round(prefill)
        self.cached_tokens += round(cached)
        self.decoded_tokens += round(decoded)

    @property
    def usage(self) -> Usage:
        """Tokens, without those of judges."""
        return Usage(
            requests=self.total_requests,
            prompt_tokens=self.prefill_tokens + self.cached_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.decoded_tokens,
        )

    def as_dict(self, prices: Prices) -> dict[str, Any]:
        """Returns JSON data."""
        price, seconds = prices.price(self.usage), prices.seconds(self.usage)
        return {
            **vars(self),
            "requests": dict(sorted(self.requests.items())),
            "total_requests": self.total_requests,
            "price": None if price is None else round(price, 4),
            "seconds": None if seconds is None else round(seconds, 1),
        }


@dataclass(frozen=True)
class SearchPlan:
    """Cost of a search at least and at most; the same for `full` growth."""

    questions: int
    documents: int
    pieces: int
    document_tokens: int
    least: SearchCost
    most: SearchCost
    is_measured: bool = False
    """Whether lengths of replies come from another run."""

    @property
    def is_exact(self) -> bool:
        """Whether the requests are known beforehand."""
        return self.least.requests == self.most.requests

    def as_dict(self, prices: Prices) -> dict[str, Any]:
        """Returns JSON data."""
        return {
            "questions": self.questions,
            "documents": self.documents,
            "pieces": self.pieces,
            "document_tokens": self.document_tokens,
            "exact": self.is_exact,
            "lengths": "measured" if self.is_measured else "assumed",
            "least": self.least.as_dict(prices),
            "most": self.most.as_dict(prices),
        }


def list_expansions(config: SearchConfig) -> tuple[list[int], list[int]]:
    """Returns the least and the most expansions of one tree, by level.

    >>> list_expansions(SearchConfig(branching=8, depth=3, deepen=2))
    ([1], [1, 2, 2])
    """
    widths = [config.branching**level for level in range(config.depth)]
    if config.growth == "full" or not widths:
        return widths, widths
    if config.growth == "best-first" and config.node_budget is not None:
        left = config.node_budget // config.branching
        most = []
        for width in widths:  # the higher levels first: how deep it goes is not known
            most.append(min(width, left))
            left -= most[-1]
        return [1], most
    if config.growth == "until-solved" and config.deepen is not None:
        most, width = [], 1
        for _ in widths:
            most.append(min(width, config.deepen))
            width = most[-1] * config.branching
        return [1], most
    return [1], widths


def build_plan(
    corpus: Iterable[Item],
    tokenizer: Tokenizer,
    config: SearchConfig,
    *,
    num_llm_judges: int = 0,
    shard: Shard | None = None,
    measured: MeasuredLengths | None = None,
) -> SearchPlan:
    """Returns the plan of a search over a corpus; the corpus is read once.

    Args:
        corpus: Questions about documents.
        tokenizer: Should be the engine's own.
        config: What to search.
        num_llm_judges: Models that judge.
        shard: Share of the documents.
        measured: Lengths of another run; None assumes them.
    """
    measured = measured or MeasuredLengths()
    sizes = PromptSizes.of(load_profile(config.profile), tokenizer)
    pieces: dict[str, list[int]] = {}
    scenarios = [(levels, SearchCost()) for levels in list_expansions(config)]
    num_questions = 0
    for item in corpus:
        document_id = item.document.id
        if shard is not None and not shard.holds(document_id):
            continue
        num_questions += 1
        is_first = document_id not in pieces
        if is_first:
            found = split(item.document, tokenizer, config.piece_tokens)
            pieces[document_id] = [piece.num_tokens for piece in found]
        judgement = render_judgement(item.question, "") if num_llm_judges else ()
        judging = sum(tokenizer.count(one.content) + TEMPLATE_TOKENS for one in judgement)
        tokens = tokenizer.count(item.question.text)
        for levels, cost in scenarios:
            one = _QuestionCost(
                config, measured, sizes, pieces[document_id], levels, is_first, tokens
            )
            one.add_to(cost)
            calls = num_llm_judges * (1 + one.nodes + config.closed_book)
            cost.judge_calls += calls
            cost.judge_tokens += round(calls * (judging + measured.reply("judge")))
    return SearchPlan(
        questions=num_questions,
        documents=len(pieces),
        pieces=sum(map(len, pieces.values())),
        document_tokens=sum(map(sum, pieces.values())),
        least=scenarios[0][1],
        most=scenarios[1][1],
        is_measured=bool(measured.reply_tokens),
    )


@dataclass(frozen=True)
class PromptSizes:
    """Tokens of the fixed parts of prompts, template included."""

    system: float
    requests: Mapping[str, float]
    """By kind of turn, the end of the reply before it included; the question is not."""
    instruction: float
    """Of a grounding request, without passage and text."""

    @classmethod
    def of(cls, profile: Profile, tokenizer: Tokenizer) -> PromptSizes:
        """Counts the wordings of a profile, on the mean over the paraphrases."""

        def mean(wordings: Sequence[Wording]) -> float:
            return sum(tokenizer.count(one.text) for one in wordings) / len(wordings)

        relevance = render_relevance(profile, "", "", [""])[-1].content
        kinds = ("direct", "clarify", "point", "sub_answer", "answer", "check")
        return cls(
            system=mean(profile.system) + TEMPLATE_TOKENS,
            requests={kind: mean(getattr(profile, kind)) + 2 * TEMPLATE_TOKENS for kind in kinds},
            instruction=tokenizer.count(relevance),
        )


@dataclass(frozen=True)
class _QuestionCost:
    """Cost of one question; lengths are in tokens. An engine with a prefix cache is assumed."""

    config: SearchConfig
    measured: MeasuredLengths
    sizes: PromptSizes
    pieces: Sequence[int]
    """Tokens of each piece of its document."""
    levels: Sequence[int]
    """Expansions by level."""
    first: bool
    """Whether nobody asked about the document before."""
    tokens: int
    """Of the question."""

    @property
    def nodes(self) -> int:
        """Nodes without the root."""
        return sum(self.levels) * self.config.branching

    @property
    def shown(self) -> float:
        """Tokens of the document that the model reads, marks included."""
        number = len(self.pieces)
        kept = self.measured.kept_pieces
        if kept is None:
            kept = max(1.0, number * KEPT_SHARE)
        if self.config.top_k is not None:
            kept = min(kept, self.config.top_k)
        if self.config.view == "document":
            kept = number
        return min(kept, number) * (sum(self.pieces) / max(1, number) + MARK_TOKENS)

    def add_to(self, cost: SearchCost) -> None:
        """Adds what the question costs."""
        self._add_grounding(cost)
        reply, config, sizes = self.measured.reply, self.config, self.sizes
        asked = self.tokens + sizes.requests["direct"]
        # The system turn is the same for the whole document, and with the view 'document' all of
        # it; kept pieces are read for each node.
        fresh = self.shown if self.first or config.view == "kept" else 0.0
        known = sizes.system + self.shown - fresh
        cost.add("direct", 1, fresh + asked, known, reply("direct"))
        if config.root_check:
            read = sizes.system + self.shown + asked + reply("direct")
            cost.add("check", 1, sizes.requests["check"], read, reply("check"))
        if config.closed_book:
            sampled = reply("direct") * config.closed_book
            cost.add("closed_book", 1, asked, sizes.system, sampled)
        history = 0.0
        for expansions in self.levels:
            history = self._add_level(cost, expansions, history)

    def _add_level(self, cost: SearchCost, expansions: int, history: float) -> float:
        """Adds the expansions of a level; returns the length of the rounds down to it.

        Args:
            cost: Added to.
            expansions: Of the level.
            history: Tokens of the rounds above.
        """
        sizes, reply = self.sizes, self.measured.reply
        nodes = expansions * self.config.branching
        opened = sizes.system + self.shown
        before = opened + self.tokens + history
        self._add_round(cost, "clarify", expansions, before, nodes)
        written = sizes.requests["clarify"] + reply("clarify")
        written += sizes.requests["point"] + reply("point")
        # From here on the view is the node's own, so that all behind it misses the prefix cache.
        again = before - opened + written + (self.shown if self.config.view == "kept" else 0.0)
        self._add_round(cost, "sub_answer", nodes, before + written, nodes, again)
        written += sizes.requests["sub_answer"] + reply("sub_answer")
        self._add_round(cost, "answer", nodes, before + written, nodes, self.tokens)
        written += sizes.requests["answer"] + self.tokens + reply("answer")
        if self.config.check:
            self._add_round(cost, "check", nodes, before + written, nodes)
            written += sizes.requests["check"] + reply("check")
        return history + written

    def _add_round(
        self,
        cost: SearchCost,
        kind: str,
        requests: int,
        before: float,
        replies: int,
        again: float = 0.0,
    ) -> None:
        """Adds requests for one kind of turn.

        Args:
            cost: Added to.
            kind: Of turn.
            requests: How many.
            before: Tokens in front of each.
            replies: Samples in all.
            again: Tokens, the request aside, that no cache holds.
        """
        own = self.sizes.requests[kind]
        fresh = self.measured.fresh_tokens.get(kind, own + again)
        known = max(0.0, before + own + (self.tokens if kind == "answer" else 0) - fresh)
        decoded = self.measured.reply(kind) * replies
        cost.add(kind, requests, fresh * requests, known * requests, decoded)

    def _add_grounding(self, cost: SearchCost) -> None:
        config, reply, sizes, first = self.config, self.measured.reply, self.sizes, self.first
        number, tokens, expansions = len(self.pieces), sum(self.pieces), sum(self.levels)
        texts = 1 + self.nodes
        # Of all texts together: what each adds to a prompt that is known up to it.
        said = self.tokens + self.nodes * reply("clarify") + texts * TEMPLATE_TOKENS
        if config.grounding == "point":
            document = tokens + MARK_TOKENS * number
            fresh = first * document + said + texts * sizes.requests["point"]
            known = texts * sizes.system + (texts - first) * document
            cost.add("ground", texts, fresh, known, reply("point") * texts)
            return
        calls = number * texts
        if config.grounding == "as-published":
            # The text comes first, so it is the only prefix that the pieces share.
            fresh = texts * (tokens + number * sizes.instruction) + said
            known = (number - 1) * (said + texts * sizes.system)
            cost.add("ground", calls, fresh, known, calls * reply("published verdict"))
            return
        # A passage is read once with the instruction behind it; each text is all that is new.
        if config.grounding == "shortlist" and number > config.shortlist_k:
            tokens = round(tokens * config.shortlist_k / number)
            number = config.shortlist_k
            calls = number * texts
        passages = tokens + number * sizes.instruction
        decoded: float = calls
        if config.grounding == "scan-many":
            # The root's question is alone and is scanned; each expansion asks once for all.
            calls = number * (1 + expansions)
            texts = 1 + expansions
            said += expansions * sizes.instruction
            decoded = number * (1 + self.nodes * reply("line"))
        fresh = first * passages + number * said
        known = calls * sizes.system + (texts - first) * passages
        cost.add("ground", calls, fresh, known, decoded)


def render_plan(plan: SearchPlan, prices: Prices) -> str:
    """Returns the plan for people."""
    lines = [
        f"{plan.questions} questions over {plan.documents} documents, {plan.pieces} pieces, "
        f"{plan.document_tokens} tokens"
    ]
    heads = ["exactly"] if plan.is_exact else ["at least", "at most"]
    costs = [plan.most] if plan.is_exact else [plan.least, plan.most]
    phases = dict.fromkeys(phase for cost in costs for phase in cost.requests)
    columns = [_render_cost(cost, phases, prices) for cost in costs]
    lines.append(f"{'':>16}" + "".join(f"{head:>16}" for head in heads))
    lines += [f"{name:>16}" + "".join(f"{c[name]:>16}" for c in columns) for name in columns[0]]
    like = "measured in the run given by --like" if plan.is_measured else "assumed (--like RUN)"
    lines += [
        "Requests are counted as if no two clarifications were alike: those that are, are grounded",
        f"once, or merged and sampled again. ~ marks estimates, with lengths {like}.",
    ]
    if plan.most.judge_calls:
        lines += [
            "Judges are asked once for each answer at most: not for exact matches, repeated and",
            "empty answers. A verdict that cannot be parsed is asked for again. Price and time",
            "leave judges out.",
        ]
    return "\n".join(lines)


def _render_cost(cost: SearchCost, phases: Iterable[str], prices: Prices) -> dict[str, str]:
    """Returns a column of the table, by the name of the row."""
    column = {phase: f"{cost.requests[phase]:,}" for phase in phases}
    column |= {
        "requests": f"{cost.total_requests:,}",
        "prefill tokens": f"~{cost.prefill_tokens:,}",
        "cached tokens": f"~{cost.cached_tokens:,}",
        "decoded tokens": f"~{cost.decoded_tokens:,}",
    }
    if cost.judge_calls:
        column["judge calls"] = f"up to {cost.judge_calls:,}"
        column["judge tokens"] = f"up to ~{cost.judge_tokens:,}"
    price, seconds = prices.price(cost.usage), prices.seconds(cost.usage)
    if price is not None:
        column["price"] = f"~{price:,.2f}"
    if seconds is not None:
        column["hours"] = f"~{seconds / 3600:,.2f}"
    return column
