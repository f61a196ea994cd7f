"""Predicts the cost of a search before it runs.

Requests are counted by the rules that the search follows: for `full` growth they equal the run's
own counters (as long as no two clarifications are alike). The other growths stop early, so
they are given as a range: the least is one expansion of every root, the most is when no question
is solved. Calls of judges are an upper bound. Tokens are estimated from the corpus and the prompts,
with lengths of replies that are assumed, or measured in another run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.core.records import Document, Prices, Question
from agenticlu.data.corpus import Item
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents import split
from agenticlu.documents.tokens import TEMPLATE_TOKENS, Tokenizer
from agenticlu.judges import render_judgement
from agenticlu.search import OPEN_SETTINGS, SearchConfig
from agenticlu.search.adapt import Chooser, Facts
from agenticlu.search.cost import (
    REPLY_TOKENS,
    ROUND,
    MeasuredLengths,
    PromptSizes,
    QuestionCost,
    SearchCost,
    list_expansions,
)
from agenticlu.search.run import Shard
from agenticlu.search.settings import read_settings
from agenticlu.search.status import load_rate
from agenticlu.search.store import Store


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
    chosen: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of each setting that is left open: documents by what is chosen for them."""
    notes: tuple[str, ...] = ()
    """Lines for people about these choices."""

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
            "chosen": {name: dict(counts) for name, counts in self.chosen.items()},
            "notes": list(self.notes),
            "least": self.least.as_dict(prices),
            "most": self.most.as_dict(prices),
        }


def build_plan(
    corpus: Iterable[Item],
    tokenizer: Tokenizer,
    config: SearchConfig,
    *,
    num_llm_judges: int = 0,
    shard: Shard | None = None,
    measured: MeasuredLengths | None = None,
    facts: Facts | None = None,
) -> SearchPlan:
    """Returns the plan of a search over a corpus; the corpus is read once.

    Args:
        corpus: Questions about documents.
        tokenizer: Should be the engine's own.
        config: What to search.
        num_llm_judges: Models that judge.
        shard: Share of the documents.
        measured: Lengths of another run; None assumes them.
        facts: What is known of the engine; None: its window is not, and it reuses any prefix.
    """
    measured = measured or MeasuredLengths()
    facts = facts or Facts()
    sizes = PromptSizes.of(load_profile(config.profile), tokenizer)
    documents = _Documents(tokenizer, config, Chooser(config, facts, sizes))
    scenarios = [(levels, SearchCost()) for levels in list_expansions(config)]
    num_questions = 0
    for item in corpus:
        document_id = item.document.id
        if shard is not None and not shard.holds(document_id):
            continue
        num_questions += 1
        is_first = documents.meet(item.document)
        judging = _count_judgement(item.question, tokenizer) if num_llm_judges else 0
        tokens = tokenizer.count(item.question.text)
        for levels, cost in scenarios:
            one = QuestionCost(
                config=config.model_copy(update=documents.chosen[document_id]),
                measured=measured,
                sizes=sizes,
                pieces=documents.pieces[document_id],
                levels=levels,
                first=is_first,
                tokens=tokens,
                block=facts.block,
            )
            one.add_to(cost)
            calls = num_llm_judges * (1 + one.nodes + config.closed_book)
            cost.add_judging(calls, judging + measured.reply("judge"))
    return SearchPlan(
        questions=num_questions,
        documents=len(documents.pieces),
        pieces=sum(map(len, documents.pieces.values())),
        document_tokens=sum(map(sum, documents.pieces.values())),
        least=scenarios[0][1],
        most=scenarios[1][1],
        is_measured=bool(measured.reply_tokens),
        chosen=documents.count_choices(),
        notes=documents.explain_choices(),
    )


def _count_judgement(question: Question, tokenizer: Tokenizer) -> int:
    """Returns the tokens of the prompt that judges an empty answer to a question."""
    messages = render_judgement(question, "")
    return sum(tokenizer.count(one.content) + TEMPLATE_TOKENS for one in messages)


class _Documents:
    """The documents of a corpus: how long their pieces are, and what is chosen for each."""

    def __init__(self, tokenizer: Tokenizer, config: SearchConfig, chooser: Chooser) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._chooser = chooser
        self.pieces: dict[str, list[int]] = {}
        """By document, the tokens of each of its pieces."""
        self.chosen: dict[str, dict[str, str]] = {}
        """By document, the settings chosen for it."""

    def meet(self, document: Document) -> bool:
        """Returns whether this is a document's first question; splits it then."""
        if document.id in self.pieces:
            return False
        found = split(document, self._tokenizer, self._config.piece_tokens)
        sizes = [piece.num_tokens for piece in found]
        self.pieces[document.id] = sizes
        self.chosen[document.id] = self._chooser.choose(sizes)
        return True

    def count_choices(self) -> dict[str, dict[str, int]]:
        """Returns, of each setting that is left open, documents by what is chosen for them."""
        return {
            name: dict(sorted(Counter(one[name] for one in self.chosen.values()).items()))
            for name in OPEN_SETTINGS
            if getattr(self._config, name) == "auto"
        }

    def explain_choices(self) -> tuple[str, ...]:
        """Returns each different reason for a choice once, as lines for people."""
        lines = (
            line
            for name, chosen in self.chosen.items()
            for line in self._chooser.explain(chosen, self.pieces[name])
        )
        return tuple(dict.fromkeys(lines))


def render_plan(plan: SearchPlan, prices: Prices) -> str:
    """Returns the plan for people."""
    lines = [
        f"{plan.questions} questions over {plan.documents} documents, {plan.pieces} pieces, "
        f"{plan.document_tokens} tokens"
    ]
    lines += [
        f"{name}: " + ", ".join(f"{value} ({number} documents)" for value, number in counts.items())
        for name, counts in plan.chosen.items()
        if counts
    ]
    lines += plan.notes
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
