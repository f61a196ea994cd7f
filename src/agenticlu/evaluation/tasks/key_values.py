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
    """Yields six rows per object.

    At HELMET's lengths an object has HELMET's number of pairs, or as many of them as fit.
    """
    template = load_templates(request.options.get("templates"))["json_kv"]
    shots = request.options.get("shots")
    rows = Rows(request, template, SPECS["json_kv"].shots if shots is None else int(shots))
    for index in range(request.num_items):
        yield rows.item(index)


def _render(pairs: Pairs) -> str:
    return f"JSON data:\n{json.dumps(pairs, indent=4)}"


class Rows:
    """Makes the rows of one request.

    Args:
        request: What is wanted.
        template: The wording.
        shots: Demonstrations in each prompt.
    """

    def __init__(self, request: TaskRequest, template: Template, shots: int) -> None:
        self._request = request
        self._template = template
        self._shots = shots
        self._gen_tokens = min(GEN_TOKENS, request.length // 4)
        most = find_scale(SPECS["json_kv"], request.length) if has_scale(request.length) else None
        least = max(NUM_PLACES, shots + 1)
        if most is not None and least > most:
            raise UsageError(
                f"{shots} demonstrations are wanted, but the objects at {request.length} have "
                f"{most} pairs.",
                hint=f"Try --shots {most - 1}.",
            )
        self._fitter = Fitter[Pairs](request, step=1, start=most or 0, least=least, most=most)
        self._objects: dict[int, Pairs] = {}

    def item(self, index: int) -> Item:
        """Returns row number `index`."""
        number, place = divmod(index, NUM_PLACES)
        if number not in self._objects:
            self._objects = {number: self._object(number)}
        return self._item(self._objects[number], index, number, place)

    def _object(self, number: int) -> Pairs:
        """Returns an object of which all six rows fit."""
        seed = self._request.row_seed(number)

        def build(num_pairs: int) -> Pairs:
            rng = Random(seed)
            keys = vocabulary.distinct(vocabulary.uuid, rng, num_pairs)
            return {key: vocabulary.uuid(rng) for key in keys}

        return self._fitter.row(build, self._tokens)

    def _tokens(self, pairs: Pairs) -> int:
        """Returns the tokens of the longest of an object's six rows; their contexts are equal."""
        count = self._request.tokenizer.count
        rows = [self._row(pairs, 0, 0, place) for place in range(NUM_PLACES)]
        longest = max(rows, key=lambda row: count(self._text(row, "")))
        return count(self._text(longest, _render(pairs))) + self._gen_tokens

    def _text(self, row: dict[str, Any], context: str) -> str:
        """Returns prompt and answer."""
        shown = build_json_kv_row({**row, "context": context}, self._shots)
        return f"{build_prompt(self._template, shown, chat=False).text} {row['answer']}"

    def _row(self, pairs: Pairs, index: int, number: int, place: int) -> dict[str, Any]:
        """Returns the columns of HELMET's files but for the context, and the object's seed."""
        keys = list(pairs)
        gold = keys[round(place * (len(keys) - 1) / (NUM_PLACES - 1))]
        others = [key for key in keys if key != gold][: max(NUM_DEMOS, self._shots)]
        return {
            "question": gold,
            "answer": pairs[gold],
            "demos": [[key, pairs[key]] for key in others],
            "num_kvs": len(pairs),
            "depth": place / (NUM_PLACES - 1),
            "id": index,
            "length": self._request.length,
            "seed": self._request.row_seed(number),
        }

    def _item(self, pairs: Pairs, index: int, number: int, place: int) -> Item:
        request = self._request
        raw = self._row(pairs, index, number, place)
        context = _render(pairs)
        row = build_json_kv_row({**raw, "context": context}, self._shots)
        line = f'"{raw["question"]}": "{raw["answer"]}"'
        start = context.index(line)
        return Item(
            task=request.task,
            length=request.length,
            document=Document.of(context, f"key_values:{request.seed}:{number}"),
            question=Question(
                id=content_id("key_values", raw["question"]),
                text=self._template.ask.format(**row),
                answers=(raw["answer"],),
            ),
            rule="open",
            gold_spans=((start, start + len(line)),),
            max_tokens=self._gen_tokens,
            prompt=build_prompt(self._template, row, chat=False),
            reference={"prefix": "corresponding value:"},
            row=raw,
        )
