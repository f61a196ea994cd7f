"""Rows with RULER's columns as items, with the prompt that HELMET makes of such rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from agenticlu.core.records import Document, Question, content_id
from agenticlu.evaluation.helmet.layout import Template, build_prompt, load_templates
from agenticlu.evaluation.helmet.rows import ruler_row, ruler_template
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest
from agenticlu.evaluation.tasks.fitting import Fitter


@dataclass(frozen=True)
class Made:
    """One generated row."""

    row: dict[str, Any]
    """Columns as in RULER's files: context, query or question, answer and what the task adds."""
    golds: tuple[str, ...] = ()
    """Sentences or lines of the context that hold the evidence."""


Build = Callable[[Random, int], Made]
"""Makes a row with a haystack of the given size; every draw comes from the generator."""


def template_of(request: TaskRequest) -> Template:
    """Returns the wording of a task with RULER's columns."""
    return load_templates(request.options.get("templates"))[ruler_template(request.task)]


def ruler_items(
    request: TaskRequest, build: Build, fitter: Fitter[Made], gen_tokens: int
) -> Iterator[Item]:
    """Yields `num_items` rows that fit.

    Args:
        request: What is wanted.
        build: Makes a row.
        fitter: Finds the size of its haystack.
        gen_tokens: Reserved for the reply; at short lengths at most a quarter is.
    """
    template = template_of(request)
    gen_tokens = min(gen_tokens, request.length // 4)

    def tokens(made: Made) -> int:
        row = ruler_row(made.row)
        text = build_prompt(template, row, chat=False).text + " " + ", ".join(row["answer"])
        return request.tokenizer.count(text) + gen_tokens

    for index in range(request.num_items):
        seed = request.seed_of(index)

        def sized(size: int, seed: int = seed) -> Made:
            return build(Random(seed), size)

        yield _item(request, template, fitter.row(sized, tokens), index, gen_tokens)


def _item(
    request: TaskRequest, template: Template, made: Made, index: int, gen_tokens: int
) -> Item:
    seed = request.seed_of(index)
    raw = {"index": index, **made.row, "length": request.length, "seed": seed}
    row = ruler_row(raw)
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
            text=template.ask.format(**row),
            answers=tuple(row["answer"]),
        ),
        rule="all_of",
        gold_spans=tuple(spans) or None,
        max_tokens=gen_tokens,
        prompt=build_prompt(template, row, chat=False),
        row={key: value for key, value in raw.items() if key != "context"},
    )
