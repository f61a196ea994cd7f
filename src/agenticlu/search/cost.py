"""The cost of one question: requests by the rules that the search follows, tokens by estimate.

An engine with a prefix cache is assumed. A prefix is reused in whole blocks: of one token where
the engine reuses any prefix, of 528 where it reuses none shorter (as servers of models with
recurrent layers do, vLLM #40696).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.records import Prices, Usage
from agenticlu.dialogue.run import render_relevance
from agenticlu.dialogue.steps import Profile, Wording
from agenticlu.documents.tokens import TEMPLATE_TOKENS, Tokenizer
from agenticlu.search import SearchConfig

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

    def add_judging(self, calls: int, tokens_each: float) -> None:
        """Adds calls of judges, with the prompt and sampled tokens of each."""
        self.judge_calls += calls
        self.judge_tokens += round(calls * tokens_each)

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
class QuestionCost:
    """Cost of one question; lengths are in tokens."""

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
    block: float = 1
    """Prefixes are reused in whole blocks of so many tokens; infinite where none are."""

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
        self.add_grounding(cost)
        reply, config, sizes = self.measured.reply, self.config, self.sizes
        asked = self.tokens + sizes.requests["direct"]
        # The system turn is the same for the whole document, and with the view 'document' all of
        # it; kept pieces are read for each node.
        fresh = self.shown if self.first or config.view == "kept" else 0.0
        known = sizes.system + self.shown - fresh
        self._add(cost, "direct", 1, fresh + asked, known, reply("direct"))
        if config.root_check:
            read = sizes.system + self.shown + asked + reply("direct")
            self._add(cost, "check", 1, sizes.requests["check"], read, reply("check"))
        if config.closed_book:
            sampled = reply("direct") * config.closed_book
            self._add(cost, "closed_book", 1, asked, sizes.system, sampled)
        history = 0.0
        for expansions in self.levels:
            history = self._add_level(cost, expansions, history)

    def _add(
        self,
        cost: SearchCost,
        phase: str,
        requests: int,
        fresh: float,
        known: float,
        decoded: float,
    ) -> None:
        """Adds requests that are alike.

        Args:
            cost: Added to.
            phase: Of the search.
            requests: How many.
            fresh: Tokens of each that no request before it had.
            known: Tokens of each that one before it began with.
            decoded: Tokens sampled by all of them.
        """
        cached = self._count_reused(known)
        computed = fresh + known - cached
        cost.add(phase, requests, computed * requests, cached * requests, decoded)

    def _count_reused(self, known: float) -> float:
        """Returns how many tokens of a known prefix are not computed again."""
        return 0.0 if self.block == math.inf else known // self.block * self.block

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
        again = reply("clarify") + sizes.requests["point"] + reply("point")
        written = sizes.requests["clarify"] + again
        if self.config.view == "kept":
            # The view is the node's own, so that all behind it misses the prefix cache.
            again = before - sizes.system + written
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
        decoded = self.measured.reply(kind) * replies
        whole = before + own + (self.tokens if kind == "answer" else 0)
        measured = self.measured.fresh_tokens.get(kind)
        if measured is not None:  # by an engine whose cache it was: the blocks are in it
            known = max(0.0, whole - measured)
            cost.add(kind, requests, measured * requests, known * requests, decoded)
            return
        fresh = own + again
        self._add(cost, kind, requests, fresh, max(0.0, whole - fresh), decoded)

    def add_grounding(self, cost: SearchCost) -> None:
        """Adds the requests that find pieces."""
        config, reply, sizes, first = self.config, self.measured.reply, self.sizes, self.first
        number, tokens, expansions = len(self.pieces), sum(self.pieces), sum(self.levels)
        texts = 1 + self.nodes
        # Of all texts together: what each adds to a prompt that is known up to it.
        said = self.tokens + self.nodes * reply("clarify") + texts * TEMPLATE_TOKENS
        if config.grounding == "point":
            document = tokens + MARK_TOKENS * number
            asked = said / texts + sizes.requests["point"]
            self._add(cost, "ground", first, document + asked, sizes.system, reply("point") * first)
            rest = texts - first
            known = sizes.system + document
            self._add(cost, "ground", rest, asked, known, reply("point") * rest)
            return
        if config.grounding == "as-published":
            # The text comes first, so it is the only prefix that the pieces share.
            cached = texts * (number - 1) * self._count_reused(sizes.system + said / texts)
            prompts = texts * (tokens + number * (sizes.instruction + sizes.system)) + number * said
            decoded = number * texts * reply("published verdict")
            cost.add("ground", number * texts, prompts - cached, cached, decoded)
            return
        # A passage is read once with the instruction behind it; each text is all that is new.
        share = 1.0
        if config.grounding == "shortlist" and number > config.shortlist_k:
            share = config.shortlist_k / number
            number = config.shortlist_k
        calls = number * texts
        decoded = calls
        if config.grounding == "scan-many":
            # The root's question is alone and is scanned; each expansion asks once for all.
            texts = 1 + expansions
            calls = number * texts
            said += expansions * sizes.instruction
            decoded = number * (1 + self.nodes * reply("line"))
        prompts, cached = number * said, 0.0
        for piece in self.pieces:
            known = sizes.system + piece + sizes.instruction
            prompts += share * texts * known
            cached += share * (texts - first) * self._count_reused(known)
            cached += share * first * self._count_reused(sizes.system)
        cost.add("ground", calls, prompts - cached, cached, decoded)
