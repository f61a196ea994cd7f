"""What an evaluation would cost, before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence

from agenticlu.evaluation.items import DoesNotFitError, Item
from agenticlu.evaluation.methods import Settings, View, find_method
from agenticlu.evaluation.run import EvaluationConfig, items_of
from agenticlu.evaluation.tables import render_table
from agenticlu.records import Record

NUM_COUNTED = 8
"""Documents of a task and length whose tokens are counted; the others are reckoned."""
REQUEST_TOKENS = 48
"""Reckoned for the question, the request and the chat template of one turn."""


class PlanRow(Record):
    """One method on one task at one length."""

    task: str
    length: int
    method: str
    num_items: int
    num_requests: int
    """Requests at most (the self-check may end a dialogue sooner)."""
    prompt_tokens: int
    """Tokens of all prompts, cached ones included."""
    uncached_tokens: int
    """Tokens to compute when the engine keeps prefixes: each document once per run."""
    completion_tokens: int
    """Tokens sampled at most."""


class Plan(Record):
    """What a run would ask."""

    rows: tuple[PlanRow, ...]
    price: float | None = None
    """Of all prompt and sampled tokens, no discount for cached ones; None: no price known."""
    left_out: tuple[str, ...] = ()
    """Tasks whose shortest item is longer than a length, one sentence each."""

    def total(self, name: str) -> int:
        """Returns the sum of a column."""
        return sum(int(getattr(row, name)) for row in self.rows)


def build_plan(
    config: EvaluationConfig,
    settings: Settings,
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Plan:
    """Builds the plan from the very items that a run would ask; request counts are upper bounds.

    Args:
        config: What would run.
        settings: Tokenizer and profile.
        price_in: Price of a million prompt tokens.
        price_out: Price of a million sampled tokens.
    """
    rows = []
    left_out = []
    for task in config.tasks:
        for length in config.lengths:
            try:
                items = items_of(config, task, length, settings)
            except DoesNotFitError as error:
                left_out.append(error.message)
                continue
            sizes = _sizes(items, settings)
            read: set[str] = set()
            for name in config.methods:
                method = find_method(name)
                kinds = method.steps * (config.rounds if method.several_rounds else 1)
                limits = [settings.sampling(kind, items[0]).max_tokens for kind in kinds if items]
                row = dict.fromkeys(("prompt", "uncached", "sampled", "requests"), 0)
                for item in items:
                    if method.layout and item.prompt is None:
                        continue
                    size, num_pieces = sizes[item.document.id]
                    if method.retrieves:
                        shown = min(config.top_k, num_pieces)
                        if config.retriever == "engine":
                            row["requests"] += num_pieces
                            row["prompt"] += size + REQUEST_TOKENS * num_pieces
                            row["uncached"] += size + REQUEST_TOKENS * num_pieces
                            row["sampled"] += num_pieces
                        size = size * shown // max(num_pieces, 1)
                        row["uncached"] += size
                    elif item.document.id not in read:
                        read.add(item.document.id)
                        row["uncached"] += size
                    history = 0
                    for limit in limits:
                        row["prompt"] += size + history + REQUEST_TOKENS
                        row["uncached"] += REQUEST_TOKENS
                        row["sampled"] += limit
                        history += limit + REQUEST_TOKENS
                    row["requests"] += len(limits)
                rows.append(
                    PlanRow(
                        task=task,
                        length=length,
                        method=name,
                        num_items=len(items),
                        num_requests=row["requests"],
                        prompt_tokens=row["prompt"],
                        uncached_tokens=row["uncached"],
                        completion_tokens=row["sampled"],
                    )
                )
    plan = Plan(rows=tuple(rows), left_out=tuple(left_out))
    if price_in is None and price_out is None:
        return plan
    price = plan.total("prompt_tokens") * (price_in or 0) / 1e6
    price += plan.total("completion_tokens") * (price_out or 0) / 1e6
    return plan.model_copy(update={"price": round(price, 4)})


def _sizes(items: Sequence[Item], settings: Settings) -> dict[str, tuple[int, int]]:
    """Returns tokens and pieces of each document's marked view.

    The first documents are counted; the others are reckoned from their characters, since counting
    hundreds of long documents would take longer than anyone waits for a plan.
    """
    sizes: dict[str, tuple[int, int]] = {}
    characters = tokens = pieces = 0
    for item in items:
        if item.document.id in sizes:
            continue
        length = len(item.document.text)
        if len(sizes) < NUM_COUNTED:
            view = View(item, settings)
            sizes[item.document.id] = (settings.tokenizer.count(view.marked), len(view.pieces))
            characters += length
            tokens += sizes[item.document.id][0]
            pieces += sizes[item.document.id][1]
        else:
            share = length / max(characters, 1)
            sizes[item.document.id] = (round(tokens * share), max(1, round(pieces * share)))
    return sizes


def render_plan(plan: Plan) -> str:
    """Renders the plan for people."""
    columns = (
        "num_items",
        "num_requests",
        "prompt_tokens",
        "uncached_tokens",
        "completion_tokens",
    )
    rows = [
        [row.task, str(row.length), row.method, *[f"{getattr(row, name):,}" for name in columns]]
        for row in plan.rows
    ]
    rows.append(["total", "", "", *[f"{plan.total(name):,}" for name in columns]])
    header = ["task", "length", "method", "items", "requests ≤", "prompt", "uncached", "sampled ≤"]
    price = "unknown (give --price-in and --price-out)" if plan.price is None else f"{plan.price}"
    lines = [render_table(header, rows), "", f"Price at most: {price}"]
    return "\n".join([*lines, *[f"{sentence} Left out." for sentence in plan.left_out]])
