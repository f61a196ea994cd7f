"""Grows a haystack until a row just fits its length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from agenticlu.evaluation.helmet.layout import build_prompt, load_templates
from agenticlu.evaluation.helmet.rows import ruler_row, ruler_template
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest
from agenticlu.records import Document, Question, content_id, content_seed


@dataclass(frozen=True)
class Made:
    """One generated row."""

    row: dict[str, Any]
    """Columns as in RULER's files: context, query or question, answer and what the task adds."""
    golds: tuple[str, ...] = ()
    """Sentences or lines of the context that hold the evidence."""


Build = Callable[[Random, int], Made]


def largest_fit(fits: Callable[[int], bool], step: int) -> int:
    """Returns the largest multiple of `step` that fits, as growing step by step would find it.

    >>> largest_fit(lambda n: n <= 130, 25)
    125
    """
    low, high = 0, 1
    while fits(high * step):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * step):
            low = middle
        else:
            high = middle
    return low * step


class Fitter:
    """Makes rows of one task that fit one length.

    Args:
        request: What is wanted.
        build: Makes a row with a haystack of the given size from a generator.
        step: By how much the haystack grows.
        gen_tokens: Reserved for the reply.
        rule: Scoring rule of the items.
    """

    def __init__(
        self,
        request: TaskRequest,
        build: Build,
        *,
        step: int,
        gen_tokens: int,
        rule: str = "all_of",
    ) -> None:
        self._request = request
        self._build = build
        self._step = step
        self._gen_tokens = gen_tokens
        self._rule = rule
        self._template = load_templates(request.options.get("templates"))[
            ruler_template(request.task)
        ]
        self._size = 0

    def item(self, index: int) -> Item:
        """Returns row number `index`; every draw follows from the row's own seed."""
        request = self._request
        seed = content_seed(request.task, str(request.seed), str(request.length), str(index))

        def made(size: int) -> Made:
            return self._build(Random(seed), size)

        if not self._size:
            self._size = largest_fit(lambda size: self._fits(made(size)), self._step)
        size = self._size
        while size > 0 and not self._fits(made(size)):
            size -= self._step
        if size <= 0:
            raise DoesNotFitError(request.task, request.length)
        return self._item(made(size), index, seed)

    def _fits(self, made: Made) -> bool:
        row = ruler_row(made.row)
        prompt = build_prompt(self._template, row, chat=False)
        text = prompt.text + " " + ", ".join(row["answer"])
        used = self._request.tokenizer.count(text) + self._gen_tokens
        return used <= self._request.length

    def _item(self, made: Made, index: int, seed: int) -> Item:
        request = self._request
        row = ruler_row({"index": index, "length": request.length, "seed": seed, **made.row})
        context = row["context"]
        spans = []
        for gold in made.golds:
            start = context.find(gold)
            assert start >= 0, f"the evidence {gold!r} is not in the context"
            spans.append((start, start + len(gold)))
        return Item(
            task=request.task,
            length=request.length,
            document=Document.of(context, f"{request.task}:{request.seed}:{index}"),
            question=Question(
                id=content_id(request.task, str(seed)),
                text=self._template.ask.format(**row),
                answers=tuple(row["answer"]),
            ),
            rule=self._rule,
            gold_spans=tuple(spans) or None,
            max_tokens=self._gen_tokens,
            prompt=build_prompt(self._template, row, chat=False),
            row={key: value for key, value in row.items() if key != "context"},
        )
