"""Key-value recall: a JSON object of UUIDs, the gold key at six evenly spaced places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document, Question, content_id
from agenticlu.evaluation.helmet.specs import (
    SPECS,
    Template,
    build_json_kv_row,
    build_prompt,
    find_scale,
    has_scale,
    load_templates,
)
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter

NUM_PLACES = 6
GEN_TOKENS = 100
NUM_DEMOS = 4
"""Demonstrations stored with a row, as in HELMET's files; more where more are shown."""

Pairs = dict[str, str]


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields six items per object.

    At HELMET's lengths an object has HELMET's number of pairs, or as many of them as fit.

    Raises:
        UsageError: An object has fewer pairs than demonstrations are to be shown.
    """
    spec = SPECS["json_kv"]
    template = load_templates(request.options.get("templates"))["json_kv"]
    given = request.options.get("shots")
    shots = spec.shots if given is None else int(given)
    gen_tokens = min(GEN_TOKENS, request.length // 4)
    most = find_scale(spec, request.length) if has_scale(request.length) else None
    least = max(NUM_PLACES, shots + 1)
    if most is not None and least > most:
        raise UsageError(
            f"{shots} demonstrations do not fit: objects at {request.length} have {most} pairs.",
            hint=f"Try --shots {most - 1}.",
        )
    fitter = Fitter[Pairs](request, step=1, start=most or 0, least=least, most=most)

    def tokens(pairs: Pairs) -> int:
        """Counts the longest of an object's six rows; their contexts are equal."""
        count = request.tokenizer.count

        def render(row: dict[str, Any], context: str) -> str:
            shown = build_json_kv_row({**row, "context": context}, shots)
            return f"{build_prompt(template, shown, chat=False).text} {row['answer']}"

        rows = [_build_row(pairs, place, shots) for place in range(NUM_PLACES)]
        longest = max(rows, key=lambda row: count(render(row, "")))
        return count(render(longest, _render(pairs))) + gen_tokens

    for first in range(0, request.num_items, NUM_PLACES):
        number = first // NUM_PLACES
        seed = request.row_seed(number)

        def build(num_pairs: int, seed: int = seed) -> Pairs:
            rng = Random(seed)
            keys = vocabulary.distinct(vocabulary.uuid, rng, num_pairs)
            return {key: vocabulary.uuid(rng) for key in keys}

        pairs = fitter.row(build, tokens)
        document = Document.of(_render(pairs), f"key_values:{request.seed}:{number}")
        for place in range(min(NUM_PLACES, request.num_items - first)):
            raw = _build_row(pairs, place, shots)
            raw |= {"id": first + place, "length": request.length, "seed": seed}
            row = build_json_kv_row({**raw, "context": document.text}, shots)
            yield _build_item(request, template, document, raw, row, gen_tokens)


def _build_item(
    request: TaskRequest,
    template: Template,
    document: Document,
    raw: dict[str, Any],
    row: dict[str, Any],
    gen_tokens: int,
) -> Item:
    line = f'"{raw["question"]}": "{raw["answer"]}"'
    start = document.text.index(line)
    return Item(
        task=request.task,
        length=request.length,
        document=document,
        question=Question(
            id=content_id("key_values", raw["question"]),
            text=template.ask.format(**row),
            answers=(raw["answer"],),
        ),
        rule="open",
        gold_spans=((start, start + len(line)),),
        max_tokens=gen_tokens,
        prompt=build_prompt(template, row, chat=False),
        reference={"prefix": SPECS["json_kv"].label},
        row=raw,
    )


def _render(pairs: Pairs) -> str:
    return f"JSON data:\n{json.dumps(pairs, indent=4)}"


def _build_row(pairs: Pairs, place: int, shots: int) -> dict[str, Any]:
    """Returns the columns of HELMET's files but for the context."""
    keys = list(pairs)
    gold = keys[round(place * (len(keys) - 1) / (NUM_PLACES - 1))]
    others = [key for key in keys if key != gold][: max(NUM_DEMOS, shots)]
    return {
        "question": gold,
        "answer": pairs[gold],
        "demos": [[key, pairs[key]] for key in others],
        "num_kvs": len(pairs),
        "depth": place / (NUM_PLACES - 1),
    }
