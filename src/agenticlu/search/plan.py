"""What a search will cost, before it runs.

Requests are counted by the rules that the search follows: for `full` growth they equal the run's
own counters (as long as no two clarifications are the same). The other growths stop early, so
they are given as a range: the least is one expansion of every root, the most is when no question
is solved. Tokens are estimated from the corpus and the prompts, with stated lengths of replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenticlu.corpus import Item
from agenticlu.documents import split
from agenticlu.prompts import Profile, load_profile, render_relevance
from agenticlu.records import Document
from agenticlu.search.config import SearchConfig
from agenticlu.search.run import Shard
from agenticlu.tokens import Tokenizer

REPLY_TOKENS = {
    "direct": 40,
    "clarify": 20,
    "sub_answer": 40,
    "answer": 40,
    "check": 2,
    "judge": 60,
    "published verdict": 60,
}
"""Assumed lengths of replies."""
KEPT_SHARE = 0.1
"""Assumed share of the pieces that grounding keeps, before the cap."""
JUDGE_PROMPT_TOKENS = 180
MILLION = 1_000_000


@dataclass
class Estimate:
    """One scenario."""

    requests: dict[str, int] = field(default_factory=dict)
    """By phase."""
    judge_calls: int = 0
    """Calls of models that judge; exact and ROUGE-L cost nothing."""
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

    def price(self, prices: Prices) -> float | None:
        """Returns the price, or None when it is not known."""
        if prices.prompt is None or prices.completion is None:
            return None
        cached = prices.prompt if prices.cached is None else prices.cached
        return (
            self.prefill_tokens * prices.prompt
            + self.cached_tokens * cached
            + self.decoded_tokens * prices.completion
        ) / MILLION

    def seconds(self, prices: Prices) -> float | None:
        """Returns the time at a measured rate, or None when none is known."""
        if not prices.tokens_per_s:
            return None
        return (self.prefill_tokens + self.decoded_tokens) / prices.tokens_per_s

    def as_dict(self, prices: Prices) -> dict[str, Any]:
        """Returns JSON data."""
        price, seconds = self.price(prices), self.seconds(prices)
        return {
            "requests": dict(sorted(self.requests.items())),
            "total_requests": self.total_requests,
            "judge_calls": self.judge_calls,
            "prefill_tokens": self.prefill_tokens,
            "cached_tokens": self.cached_tokens,
            "decoded_tokens": self.decoded_tokens,
            "price": None if price is None else round(price, 4),
            "seconds": None if seconds is None else round(seconds, 1),
        }


@dataclass(frozen=True)
class Prices:
    """Per million tokens, in any one currency; and a measured rate."""

    prompt: float | None = None
    completion: float | None = None
    cached: float | None = None
    """None: as dear as any prompt token."""
    tokens_per_s: float | None = None
    """Computed and sampled tokens a second."""


@dataclass(frozen=True)
class Plan:
    """What a search will cost at least and at most; the same for `full` growth."""

    questions: int
    documents: int
    pieces: int
    document_tokens: int
    least: Estimate
    most: Estimate

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
            "least": self.least.as_dict(prices),
            "most": self.most.as_dict(prices),
        }


def count_expansions(config: SearchConfig) -> tuple[int, int]:
    """Returns the least and the most expansions of one tree.

    >>> count_expansions(SearchConfig(branching=8, depth=3, growth="full"))
    (73, 73)
    """
    full = sum(config.branching**level for level in range(config.depth))
    if config.depth == 0:
        return 0, 0
    if config.growth == "full":
        return full, full
    if config.growth == "best-first":
        if config.node_budget is None:
            return 1, full
        return 1, min(full, config.node_budget // config.branching)
    if config.deepen is None:
        return 1, full
    most, width = 0, 1
    for _ in range(config.depth):
        expanded = min(width, config.deepen)
        most += expanded
        width = expanded * config.branching
    return 1, most


def build_plan(
    corpus: Iterable[Item],
    tokenizer: Tokenizer,
    config: SearchConfig,
    *,
    num_llm_judges: int = 0,
    shard: Shard | None = None,
) -> Plan:
    """Returns the plan of a search over a corpus; the corpus is read once."""
    profile = load_profile(config.profile)
    pieces: dict[str, list[int]] = {}
    wanted: list[tuple[str, int]] = []
    relevance_tokens = 0
    for item in corpus:
        if shard is not None and not shard.holds(item.document.id):
            continue
        if item.document.id not in pieces:
            found = split(item.document, tokenizer, config.piece_tokens)
            pieces[item.document.id] = [piece.num_tokens for piece in found]
            relevance_tokens = _relevance_tokens(profile, item.document, tokenizer)
        wanted.append((item.document.id, tokenizer.count(item.question.text)))
    least_expansions, most_expansions = count_expansions(config)
    system = max(tokenizer.count(wording.text) for wording in profile.system) + 8
    sizes = Sizes(system=system, instruction=relevance_tokens)
    scenarios = []
    for expansions in (least_expansions, most_expansions):
        estimate = Estimate()
        seen: set[str] = set()
        for document_id, question_tokens in wanted:
            _add_question(
                estimate,
                config,
                pieces[document_id],
                expansions,
                question_tokens,
                sizes,
                first=document_id not in seen,
            )
            nodes = expansions * config.branching
            estimate.judge_calls += num_llm_judges * (1 + nodes + config.closed_book)
            seen.add(document_id)
        scenarios.append(estimate)
    return Plan(
        questions=len(wanted),
        documents=len(pieces),
        pieces=sum(map(len, pieces.values())),
        document_tokens=sum(map(sum, pieces.values())),
        least=scenarios[0],
        most=scenarios[1],
    )


@dataclass(frozen=True)
class Sizes:
    """Lengths of fixed parts of prompts."""

    system: int
    instruction: int
    """Of a grounding request, without passage and question."""


def _relevance_tokens(profile: Profile, document: Document, tokenizer: Tokenizer) -> int:
    messages = render_relevance(profile, document.id, "", [""])
    return tokenizer.count(messages[-1].content) + 4


def _add_question(
    estimate: Estimate,
    config: SearchConfig,
    pieces: Sequence[int],
    expansions: int,
    question_tokens: int,
    sizes: Sizes,
    *,
    first: bool,
) -> None:
    nodes = expansions * config.branching
    _add_grounding(estimate, config, pieces, expansions, question_tokens, sizes, first=first)
    tokens = sum(pieces)
    mean = tokens / max(1, len(pieces))
    kept = max(1.0, len(pieces) * KEPT_SHARE)
    if config.top_k is not None:
        kept = min(kept, config.top_k)
    shown = tokens if config.view == "document" else kept * mean
    view = sizes.system + shown + question_tokens + 20
    # The whole document is the same prefix for all questions and nodes; kept pieces are not.
    shared = view if config.view == "document" else 0.0
    known = 0.0 if first else shared
    estimate.add("direct", 1, view - known, known, REPLY_TOKENS["direct"])
    if config.root_check:
        estimate.add("check", 1, 20, view + REPLY_TOKENS["direct"], REPLY_TOKENS["check"])
    if config.closed_book:
        blind = sizes.system + question_tokens + 30
        estimate.add("closed_book", 1, blind, 0, REPLY_TOKENS["direct"] * config.closed_book)
    # Of an expansion: the clarify request re-reads its node's history from the cache.
    estimate.add(
        "clarify", expansions, 20 * expansions, view * expansions, REPLY_TOKENS["clarify"] * nodes
    )
    grown = REPLY_TOKENS["clarify"] + 50
    estimate.add(
        "sub_answer",
        nodes,
        (view - shared + grown) * nodes,
        shared * nodes,
        REPLY_TOKENS["sub_answer"] * nodes,
    )
    for phase, extra in (("answer", 40 + question_tokens), ("check", 25)):
        if phase == "check" and not config.check:
            continue
        grown += REPLY_TOKENS["sub_answer"]
        estimate.add(
            phase, nodes, extra * nodes, (view + grown) * nodes, REPLY_TOKENS[phase] * nodes
        )


def _add_grounding(
    estimate: Estimate,
    config: SearchConfig,
    pieces: Sequence[int],
    expansions: int,
    question_tokens: int,
    sizes: Sizes,
    *,
    first: bool,
) -> None:
    number, tokens = len(pieces), sum(pieces)
    texts = 1 + expansions * config.branching
    head = sizes.system * number + tokens
    tail = sizes.instruction + question_tokens
    if config.grounding == "point":
        read = tokens + 8 * number + sizes.system
        computed: float = (read if first else 0) + tail * texts
        estimate.add("ground", texts, computed, read * texts - (read if first else 0), 12 * texts)
    elif config.grounding == "as-published":
        calls = number * texts
        estimate.add(
            "ground",
            calls,
            texts * (tokens + number * (tail + 60)),
            0,
            calls * REPLY_TOKENS["published verdict"],
        )
    elif config.grounding == "scan-many":
        # The root's question is alone and is scanned; each expansion asks once for all.
        calls = number * (1 + expansions)
        own = tail + number * expansions * (config.branching * (question_tokens + 4))
        computed = (head if first else 0) + own + calls * sizes.instruction
        decoded = number + number * expansions * config.branching * 4
        estimate.add("ground", calls, computed, head * (1 + expansions), decoded)
    else:
        share = 1.0
        if config.grounding == "shortlist":
            share = min(1.0, config.shortlist_k / max(1, number))
            number = min(number, config.shortlist_k)
        calls = number * texts
        # Shortlists of different texts overlap; each piece is computed once all the same.
        computed = (head * (share if texts == 1 else min(1.0, share * 2)) if first else 0.0) + (
            calls * tail
        )
        cached = head * share * texts - (head * share if first else 0)
        estimate.add("ground", calls, computed, cached, calls)


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
        ("judge calls", [f"{one.judge_calls:,}" for one in estimates]),
        ("prefill tokens", [f"{one.prefill_tokens:,}" for one in estimates]),
        ("cached tokens", [f"{one.cached_tokens:,}" for one in estimates]),
        ("decoded tokens", [f"{one.decoded_tokens:,}" for one in estimates]),
    ]
    if estimates[0].price(prices) is not None:
        table.append(("price", [f"{one.price(prices):,.2f}" for one in estimates]))
    if estimates[0].seconds(prices) is not None:
        table.append(("hours", [f"{(one.seconds(prices) or 0) / 3600:,.2f}" for one in estimates]))
    lines += [f"{name:>16}" + "".join(f"{v:>16}" for v in values) for name, values in table]
    lines.append("Tokens are estimates; requests follow the search's own rules.")
    return "\n".join(lines)
