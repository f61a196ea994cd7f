"""Key-value recall: a JSON object of UUIDs, the gold key at six evenly spaced places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.helmet.layout import build_prompt, load_templates
from agenticlu.evaluation.helmet.specs import LENGTHS, SPECS, scale_of
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import largest_fit
from agenticlu.records import Document, Question, content_id, content_seed

NUM_PLACES = 6
GEN_TOKENS = 100
NUM_DEMOS = 4
RESERVE = 200
"""Tokens kept for instruction, question and reply where the number of pairs is fitted."""


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields six rows per object; at HELMET's lengths it has HELMET's number of pairs."""
    num_pairs = _num_pairs(request)
    shots = int(request.options.get("shots") or 0)
    for index in range(request.num_items):
        yield _item(request, index, num_pairs, shots)


def _object(request: TaskRequest, number: int, num_pairs: int) -> dict[str, str]:
    seed = content_seed("key_values", str(request.seed), str(request.length), str(number))
    rng = Random(seed)
    keys = vocabulary.distinct(vocabulary.uuid, rng, num_pairs)
    return {key: vocabulary.uuid(rng) for key in keys}


def _render(pairs: dict[str, str]) -> str:
    return f"JSON data:\n{json.dumps(pairs, indent=4)}"


def _num_pairs(request: TaskRequest) -> int:
    if request.length in LENGTHS and request.options.get("ladder", True):
        return scale_of(SPECS["json_kv"], request.length)
    room = request.length - min(RESERVE, request.length // 4)
    count = request.tokenizer.count
    found = largest_fit(lambda n: count(_render(_object(request, 0, n))) <= room, 1)
    if found < NUM_PLACES:
        raise DoesNotFitError(request.task, request.length)
    return found


def _item(request: TaskRequest, index: int, num_pairs: int, shots: int) -> Item:
    number, place = divmod(index, NUM_PLACES)
    pairs = _object(request, number, num_pairs)
    keys = list(pairs)
    position = round(place * (num_pairs - 1) / (NUM_PLACES - 1))
    gold = keys[position]
    others = [key for key in keys if key != gold][:NUM_DEMOS]
    context = _render(pairs)
    demos = [[key, pairs[key]] for key in others]
    row = {
        "index": index,
        "context": context,
        "question": gold,
        "answer": pairs[gold],
        "num_kvs": num_pairs,
        "depth": place / (NUM_PLACES - 1),
        "demos": "".join(
            f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in demos[:shots]
        ),
    }
    template = load_templates(request.options.get("templates"))["json_kv"]
    line = f'"{gold}": "{pairs[gold]}"'
    start = context.index(line)
    document = Document.of(context, f"key_values:{request.seed}:{number}")
    return Item(
        task=request.task,
        length=request.length,
        document=document,
        question=Question(
            id=content_id("key_values", gold),
            text=template.ask.format(**row),
            answers=(pairs[gold],),
        ),
        rule="open",
        gold_spans=((start, start + len(line)),),
        max_tokens=GEN_TOKENS,
        prompt=build_prompt(template, row, chat=False),
        reference={"prefix": "corresponding value:"},
        row={key: value for key, value in row.items() if key != "context"},
    )
