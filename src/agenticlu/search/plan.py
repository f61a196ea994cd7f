"""What a search will cost, before it runs.

Requests are counted by the rules that the search follows: for `full` growth they equal the run's
own counters (as long as no two clarifications are alike). The other growths stop early, so
they are given as a range: the least is one expansion of every root, the most is when no question
is solved. Calls of judges are a bound. Tokens are estimated from the corpus and the prompts, with
lengths of replies that are assumed, or measured in another run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.core.records import Prices, Question, Usage
from agenticlu.data.corpus import Item
from agenticlu.dialogue.profiles import Profile, Wording, load_profile, render_relevance
from agenticlu.documents import split
from agenticlu.documents.tokens import Tokenizer
from agenticlu.judges.panel import render_judgement
from agenticlu.search.config import SearchConfig
from agenticlu.search.run import Shard
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
TEMPLATE_TOKENS = 4
"""What a chat template puts around a message."""
MARK_TOKENS = 8
"""Of a piece's marks."""


@dataclass(frozen=True)
class Measured:
    """What replies and kept pieces came to in another run, in place of what is assumed."""

    reply_tokens: Mapping[str, float] = field(default_factory=dict)
    """As `REPLY_TOKENS`; what is not here is assumed."""
    fresh_tokens: Mapping[str, float] = field(default_factory=dict)
    """Prompt tokens of a request that had to be computed, by phase; what is not here follows from
    the prompts, as if no two nodes kept the same pieces."""
    kept_pieces: float | None = None
    """Mean over the nodes; None: assumed."""
    tokens_per_s: float | None = None

    def reply(self, kind: str) -> float:
        """Returns the length of a reply."""
        return self.reply_tokens.get(kind, REPLY_TOKENS[kind])


def load_measured(run: str | Path) -> Measured:
    """Reads lengths, kept pieces and the rate off a run.

    Raises:
        StoreError: There is no run.
    """
    with Store(run, writable=False) as store:
        config = SearchConfig.model_validate(store.get("config") or {})
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
    return Measured(
        reply_tokens=lengths,
        fresh_tokens=fresh,
        kept_pieces=sum(len(node.kept) for node in nodes) / len(nodes) if nodes else None,
        tokens_per_s=load_rate(run),
    )


@dataclass
class Estimate:
    """One scenario."""

    requests: dict[str, int] = field(default_factory=dict)
    """By phase."""
    judge_calls: int = 0
    """Calls of models that judge, at most: one for each answer and model, if no answer is repeated,
    empty or an exact match. A verdict that cannot be read is asked for again."""
    judge_tokens: int = 0
    """Prompt and sampled tokens of those calls; their price is not in `price`."""
    prefill_tokens: int = 0
    """Prompt tokens that have to be computed."""
    cached_tokens: int = 0
    """Prompt tokens that an engine with a prefix cache has read before."""
    decoded_tokens: int = 0

    @property
    def total_requests(self) -> int:
        """Requests of all phases, judges aside."""
        return sum(self.requests.values())

    def add(self, phase: str, requests: int, prefill: float, cached: float, decoded: float) -> None:
        """Adds requests of a phase, with their tokens in total."""
        self.requests[phase] = self.requests.get(phase, 0) + requests
        self.prefill_tokens += round(prefill)
        self.cached_tokens += round(cached)
        self.decoded_tokens += round(decoded)

    @property
    def usage(self) -> Usage:
        """Tokens, judges' aside."""
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
            "requests": dict(sorted(self.requests.items())),
            "total_requests": self.total_requests,
            "judge_calls": self.judge_calls,
            "judge_tokens": self.judge_tokens,
            "prefill_tokens": self.prefill_tokens,
            "cached_tokens": self.cached_tokens,
            "decoded_tokens": self.decoded_tokens,
            "price": None if price is None else round(price, 4),
            "seconds": None if seconds is None else round(seconds, 1),
        }


@dataclass(frozen=True)
class Plan:
    """What a search will cost at least and at most; the same for `full` growth."""

    questions: int
    documents: int
    pieces: int
    document_tokens: int
    least: Estimate
    most: Estimate
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


def count_expansions(config: SearchConfig) -> tuple[int, int]:
    """Returns the least and the most expansions of one tree.

    >>> count_expansions(SearchConfig(branching=8, depth=3, growth="full"))
    (73, 73)
    """
    least, most = list_expansions(config)
    return sum(least), sum(most)


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
    measured: Measured | None = None,
) -> Plan:
    """Returns the plan of a search over a corpus; the corpus is read once.

    Args:
        corpus: Questions about documents.
        tokenizer: Should be the engine's own.
        config: What to search.
        num_llm_judges: Models that judge.
        shard: Share of the documents.
        measured: Lengths of another run; None assumes them.
    """
    profile = load_profile(config.profile)
    measured = measured or Measured()
    pieces: dict[str, list[int]] = {}
    wanted: list[tuple[Question, str]] = []
    for item in corpus:
        if shard is not None and not shard.holds(item.document.id):
            continue
        if item.document.id not in pieces:
            found = split(item.document, tokenizer, config.piece_tokens)
            pieces[item.document.id] = [piece.num_tokens for piece in found]
        wanted.append((item.question, item.document.id))
    sizes = Sizes.of(profile, tokenizer)
    scenarios = []
    for levels in list_expansions(config):
        estimate = Estimate()
        seen: set[str] = set()
        for question, document_id in wanted:
            one = _Question(
                config=config,
                measured=measured,
                pieces=pieces[document_id],
                levels=levels,
                first=document_id not in seen,
                sizes=sizes,
                tokens=tokenizer.count(question.text),
            )
            one.add_to(estimate)
            _add_judges(estimate, one, question, num_llm_judges, tokenizer)
            seen.add(document_id)
        scenarios.append(estimate)
    return Plan(
        questions=len(wanted),
        documents=len(pieces),
        pieces=sum(map(len, pieces.values())),
        document_tokens=sum(map(sum, pieces.values())),
        least=scenarios[0],
        most=scenarios[1],
        is_measured=bool(measured.reply_tokens),
    )


def _add_judges(
    estimate: Estimate, one: _Question, question: Question, number: int, tokenizer: Tokenizer
) -> None:
    calls = number * (1 + one.nodes + one.config.closed_book)
    prompt = sum(
        tokenizer.count(message.content) + TEMPLATE_TOKENS
        for message in (render_judgement(question, "") if number else ())
    )
    estimate.judge_calls += calls
    estimate.judge_tokens += round(calls * (prompt + one.measured.reply("judge")))


@dataclass(frozen=True)
class Sizes:
    """Tokens of the fixed parts of prompts, template included."""

    system: float
    requests: Mapping[str, float]
    """By kind of turn, the end of the reply before it included; the question is not."""
    instruction: float
    """Of a grounding request, without passage and text."""

    @classmethod
    def of(cls, profile: Profile, tokenizer: Tokenizer) -> Sizes:
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
class _Question:
    """One question of a plan. All counts of tokens; an engine with a prefix cache is assumed."""

    config: SearchConfig
    measured: Measured
    pieces: Sequence[int]
    """Tokens of each piece of its document."""
    levels: Sequence[int]
    """Expansions by level."""
    first: bool
    """Whether nobody asked about the document before."""
    sizes: Sizes
    tokens: int
    """Of the question."""

    @property
    def nodes(self) -> int:
        """Nodes without the root."""
        return sum(self.levels) * self.config.branching

    @property
    def shown(self) -> float:
        """What the model reads of the document, marks included."""
        number = len(self.pieces)
        kept = self.measured.kept_pieces
        if kept is None:
            kept = max(1.0, number * KEPT_SHARE)
        if self.config.top_k is not None:
            kept = min(kept, self.config.top_k)
        if self.config.view == "document":
            kept = number
        kept = min(kept, number)
        return kept * (sum(self.pieces) / max(1, number) + MARK_TOKENS)

    def add_to(self, estimate: Estimate) -> None:
        """Adds what the question costs."""
        self._add_grounding(estimate)
        reply, config, sizes = self.measured.reply, self.config, self.sizes
        asked = self.tokens + sizes.requests["direct"]
        # The system turn is the same for the whole document, and with the view 'document' all of
        # it; kept pieces are read for each node.
        fresh = self.shown if self.first or config.view == "kept" else 0.0
        known = sizes.system + self.shown - fresh
        estimate.add("direct", 1, fresh + asked, known, reply("direct"))
        if config.root_check:
            read = sizes.system + self.shown + asked + reply("direct")
            estimate.add("check", 1, sizes.requests["check"], read, reply("check"))
        if config.closed_book:
            sampled = reply("direct") * config.closed_book
            estimate.add("closed_book", 1, asked, sizes.system, sampled)
        history = 0.0
        for expansions in self.levels:
            history = self._add_level(estimate, expansions, history)

    def _add_level(self, estimate: Estimate, expansions: int, history: float) -> float:
        """Adds the expansions of a level; returns the length of the rounds down to it.

        Args:
            estimate: Added to.
            expansions: Of the level.
            history: Tokens of the rounds above.
        """
        sizes, reply = self.sizes, self.measured.reply
        nodes = expansions * self.config.branching
        opened = sizes.system + self.shown
        before = opened + self.tokens + history
        self._add_round(estimate, "clarify", expansions, before, nodes)
        written = sizes.requests["clarify"] + reply("clarify")
        written += sizes.requests["point"] + reply("point")
        # The view is now the node's own: all that stands behind it is read anew.
        again = before - opened + written + (self.shown if self.config.view == "kept" else 0.0)
        self._add_round(estimate, "sub_answer", nodes, before + written, nodes, again)
        written += sizes.requests["sub_answer"] + reply("sub_answer")
        self._add_round(estimate, "answer", nodes, before + written, nodes, self.tokens)
        written += sizes.requests["answer"] + self.tokens + reply("answer")
        if self.config.check:
            self._add_round(estimate, "check", nodes, before + written, nodes)
            written += sizes.requests["check"] + reply("check")
        return history + written

    def _add_round(
        self,
        estimate: Estimate,
        kind: str,
        requests: int,
        before: float,
        replies: int,
        again: float = 0.0,
    ) -> None:
        """Adds requests for one kind of turn.

        Args:
            estimate: Added to.
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
        estimate.add(kind, requests, fresh * requests, known * requests, decoded)

    def _add_grounding(self, estimate: Estimate) -> None:
        config, reply, sizes, first = self.config, self.measured.reply, self.sizes, self.first
        number, tokens, expansions = len(self.pieces), sum(self.pieces), sum(self.levels)
        texts = 1 + self.nodes
        # Of all texts together: what each adds to a prompt that is known up to it.
        said = self.tokens + self.nodes * reply("clarify") + texts * TEMPLATE_TOKENS
        if config.grounding == "point":
            document = tokens + MARK_TOKENS * number
            fresh = first * document + said + texts * sizes.requests["point"]
            known = texts * sizes.system + (texts - first) * document
            estimate.add("ground", texts, fresh, known, reply("point") * texts)
            return
        calls = number * texts
        if config.grounding == "as-published":
            # The text stands first: it is shared by the pieces, and nothing else is.
            fresh = texts * (tokens + number * sizes.instruction) + said
            known = (number - 1) * (said + texts * sizes.system)
            estimate.add("ground", calls, fresh, known, calls * reply("published verdict"))
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
        estimate.add("ground", calls, fresh, known, decoded)


def render(plan: Plan, prices: Prices) -> str:
    """Returns the plan for people."""
    lines = [
        f"{plan.questions} questions over {plan.documents} documents, {plan.pieces} pieces, "
        f"{plan.document_tokens} tokens"
    ]
    heads = ["exactly"] if plan.is_exact else ["at least", "at most"]
    estimates = [plan.most] if plan.is_exact else [plan.least, plan.most]
    lines.append(f"{'':>16}" + "".join(f"{head:>16}" for head in heads))
    phases = dict.fromkeys(phase for one in estimates for phase in one.requests)
    table: list[tuple[str, list[str]]] = [
        (phase, [f"{one.requests.get(phase, 0):,}" for one in estimates]) for phase in phases
    ]
    table += [
        ("requests", [f"{one.total_requests:,}" for one in estimates]),
        ("prefill tokens", [f"~{one.prefill_tokens:,}" for one in estimates]),
        ("cached tokens", [f"~{one.cached_tokens:,}" for one in estimates]),
        ("decoded tokens", [f"~{one.decoded_tokens:,}" for one in estimates]),
    ]
    if plan.most.judge_calls:
        table += [
            ("judge calls", [f"up to {one.judge_calls:,}" for one in estimates]),
            ("judge tokens", [f"up to ~{one.judge_tokens:,}" for one in estimates]),
        ]
    for name, unit, values in (
        ("price", 1, [prices.price(one.usage) for one in estimates]),
        ("hours", 3600, [prices.seconds(one.usage) for one in estimates]),
    ):
        known = [f"~{value / unit:,.2f}" for value in values if value is not None]
        if known:
            table.append((name, known))
    lines += [f"{name:>16}" + "".join(f"{v:>16}" for v in values) for name, values in table]
    like = "as in the run given" if plan.is_measured else "assumed (--like RUN)"
    lines += [
        "Requests are counted as if no two clarifications were alike: those that are, are grounded",
        f"once, or merged and sampled again. ~ marks estimates, with lengths {like}.",
    ]
    if plan.most.judge_calls:
        lines += [
            "Judges are asked once for each answer at most: not for exact matches, repeated and",
            "empty answers. What cannot be read is asked for again. Price and time leave them out.",
        ]
    return "\n".join(lines)
