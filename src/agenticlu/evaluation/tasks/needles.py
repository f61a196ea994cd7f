"""Needles in a haystack, after RULER's eight variants."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Build, Fitter, Made

GEN_TOKENS = {"niah_multikey_3": 100, "niah_multiquery": 100}
DEPTHS = tuple(round(100 * i / 39) for i in range(40))
"""Depths in per cent that needles are placed at; drawn without repeat."""


def needle(kind: str, key: str, value: str) -> str:
    """Returns the sentence that hides a value: type, key, value."""
    return f"One of the special magic {kind}s to remember for {key} is: {value}."


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of one variant."""
    step = {"niah_single_1": 25, "niah_multikey_2": 25, "niah_multikey_3": 25}.get(
        request.task, 500
    )
    if request.length < 4096:
        step = 5 if step == 25 else 25
    fitter = Fitter(
        request,
        build_of(request),
        step=step,
        gen_tokens=min(GEN_TOKENS.get(request.task, 50), request.length // 4),
    )
    for index in range(request.num_items):
        yield fitter.item(index)


def build_of(request: TaskRequest) -> Build:
    """Returns the function that makes a row of the variant."""
    task, path = request.task, request.options.get("haystack")

    def build(rng: Random, size: int) -> Made:
        if task == "niah_single_1":
            return _in_lines(rng, [vocabulary.FILLER_LINE] * size, "number")
        if task in ("niah_multikey_2", "niah_multikey_3"):
            kind = "number" if task.endswith("2") else "uuid"
            lines = [needle(kind, _key(rng, kind), _value(rng, kind)) for _ in range(size)]
            return _in_lines(rng, lines, kind)
        return _in_prose(rng, task, size, path)

    return build


def _key(rng: Random, kind: str) -> str:
    return vocabulary.uuid(rng) if kind == "uuid" else vocabulary.key_name(rng)


def _value(rng: Random, kind: str) -> str:
    return vocabulary.uuid(rng) if kind == "uuid" else vocabulary.number(rng)


def _in_lines(rng: Random, lines: list[str], kind: str) -> Made:
    """Puts one needle between lines; its key occurs nowhere else."""
    taken = " ".join(lines) if "magic" in "".join(lines[:1]) else ""
    key = _key(rng, kind)
    while f" {key} " in taken:
        key = _key(rng, kind)
    value = _value(rng, kind)
    sentence = needle(kind, key, value)
    lines.insert(rng.randrange(len(lines) + 1), sentence)
    row = {"context": "\n".join(lines), "query": key, "answer": [value], "type_needle_v": kind}
    return Made(row, (sentence,))


def _in_prose(rng: Random, task: str, num_words: int, path: str | None) -> Made:
    """Puts needles between the sentences of some prose."""
    kind = "uuid" if task == "niah_single_3" else "number"
    num_keys = 4 if task in ("niah_multikey_1", "niah_multiquery") else 1
    num_values = 4 if task == "niah_multivalue" else 1
    keys = vocabulary.distinct(vocabulary.key_name, rng, num_keys)
    values = [[_value(rng, kind) for _ in range(num_values)] for _ in keys]
    needles = [
        needle(kind, key, value) for key, found in zip(keys, values, strict=True) for value in found
    ]
    asked = keys if task == "niah_multiquery" else keys[:1]
    golds = needles if task in ("niah_multiquery", "niah_multivalue") else needles[:1]
    shuffled = rng.sample(needles, len(needles))
    prose: list[str] = []
    count = 0
    source = vocabulary.sentences(rng, path)
    while count < num_words:
        prose.append(next(source))
        count += len(prose[-1].split())
    places = sorted(int(len(prose) * depth / 100) for depth in rng.sample(DEPTHS, len(shuffled)))
    for place, sentence in reversed(list(zip(places, shuffled, strict=True))):
        prose.insert(place, sentence)
    answer = [
        value for key, found in zip(keys, values, strict=True) if key in asked for value in found
    ]
    query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + f", and {asked[-1]}"
    many = task in ("niah_multiquery", "niah_multivalue")
    row = {
        "context": " ".join(prose),
        "query": query,
        "answer": answer,
        "type_needle_v": f"{kind}s" if many else kind,
    }
    return Made(row, tuple(golds))
