"""Questions about generated texts as items: the rows that HELMET has no layout for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agenticlu.core.records import Document, Question, content_id
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest
from agenticlu.evaluation.tasks.fitting import Fitter

AROUND_ANSWER = 16
"""Tokens of a reply beside the answer, such as 'Final Answer: '."""


@dataclass(frozen=True)
class Asked:
    """A text, a question about it, and what is accepted."""

    text: str
    question: str
    answer: str
    spans: tuple[tuple[int, int], ...] | None = None
    """Characters of the text that hold the evidence; None where all of it is."""
    reference: Mapping[str, Any] = field(default_factory=dict)


Build = Callable[[Random, int], Asked]
"""Makes a question about a text of the given size; every draw comes from the generator."""


def fitted_items(
    request: TaskRequest, build: Build, fitter: Fitter[Asked], gen_tokens: int, rule: str
) -> Iterator[Item]:
    """Yields `num_items` items whose text, question, answer and reply fit the length.

    Args:
        request: What is wanted.
        build: Makes a text and its question.
        fitter: Finds the size of the text.
        gen_tokens: Reserved for the reply: at most a quarter of the length, and as many as the
            answer takes.
        rule: Scoring rule.
    """
    count = request.tokenizer.count

    def reply_tokens(asked: Asked) -> int:
        return max(min(gen_tokens, request.length // 4), count(asked.answer) + AROUND_ANSWER)

    def tokens(asked: Asked) -> int:
        return count(f"{asked.text}\n\n{asked.question} {asked.answer}") + reply_tokens(asked)

    for index in range(request.num_items):
        seed = request.seed_of(index)

        def sized(size: int, seed: int = seed) -> Asked:
            return build(Random(seed), size)

        asked = fitter.row(sized, tokens)
        yield item_of(request, index, asked, rule, reply_tokens(asked))


def item_of(request: TaskRequest, index: int, asked: Asked, rule: str, max_tokens: int) -> Item:
    """Returns the item of a question."""
    seed = request.seed_of(index)
    name = content_id(request.task, str(seed))
    return Item(
        task=request.task,
        length=request.length,
        document=Document.of(asked.text, f"{request.task}:{request.seed}:{index}"),
        question=Question(id=name, text=asked.question, answers=(asked.answer,)),
        rule=rule,
        gold_spans=asked.spans or None,
        max_tokens=max_tokens,
        reference=asked.reference,
        row={
            "index": index,
            "id": name,
            "question": asked.question,
            "answers": [asked.answer],
            "gold_spans": asked.spans,
            "length": request.length,
            "seed": seed,
        },
    )
