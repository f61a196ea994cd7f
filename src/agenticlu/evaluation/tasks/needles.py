"""Needles in a haystack, after RULER's eight variants."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter
from agenticlu.evaluation.tasks.ruler import Build, Made, ruler_items

GEN_TOKENS = {"niah_multikey_3": 100, "niah_multiquery": 100}
OF_LINES = ("niah_single_1", "niah_multikey_2", "niah_multikey_3")
"""Variants whose haystack is made of lines; that of the others is prose, measured in words."""
DEPTHS = tuple(round(100 * i / 39) for i in range(40))
"""Depths in per cent that needles are placed at; drawn without repeat."""


def needle(kind: str, key: str, value: str) -> str:
    """Returns the sentence that hides a value: type, key, value."""
    return f"One of the special magic {kind}s to remember for {key} is: {value}."


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of one variant."""
    step = 500
    if request.task in OF_LINES:
        step = 25 if request.length >= 4096 else 5
    fitter = Fitter[Made](request, step=step)
    yield from ruler_items(request, build_of(request), fitter, GEN_TOKENS.get(request.task, 50))


def build_of(request: TaskRequest) -> Build:
    """Returns the function that makes a row of the variant."""
    task, path = request.task, request.options.get("haystack")
    source = vocabulary.source_of(request.options)

    def build(rng: Random, size: int) -> Made:
        if task == "niah_single_1":
            key = vocabulary.key_name(rng, source)
            return _in_lines(rng, [vocabulary.FILLER_LINE] * size, "number", key)
        if task in OF_LINES:
            return _among_needles(rng, size, "number" if task.endswith("2") else "uuid", source)
        return _in_prose(rng, task, size, path, source)

    return build


def _key(rng: Random, kind: str, source: str) -> str:
    return vocabulary.uuid(rng) if kind == "uuid" else vocabulary.key_name(rng, source)


def _value(rng: Random, kind: str) -> str:
    return vocabulary.uuid(rng) if kind == "uuid" else vocabulary.number(rng)


def _in_lines(rng: Random, lines: list[str], kind: str, key: str) -> Made:
    """Puts one needle between lines."""
    value = _value(rng, kind)
    sentence = needle(kind, key, value)
    lines.insert(rng.randrange(len(lines) + 1), sentence)
    row = {"context": "\n".join(lines), "query": key, "answer": [value], "type_needle_v": kind}
    return Made(row, (sentence,))


def _among_needles(rng: Random, num_lines: int, kind: str, source: str) -> Made:
    """Puts one needle among others; its key occurs nowhere else."""
    gold = _key(rng, kind, source)
    lines: list[str] = []
    while len(lines) < num_lines:
        key = _key(rng, kind, source)
        if key != gold:
            lines.append(needle(kind, key, _value(rng, kind)))
    return _in_lines(rng, lines, kind, gold)


def _in_prose(rng: Random, task: str, num_words: int, path: str | None, source: str) -> Made:
    """Puts needles between the sentences of some prose."""
    kind = "uuid" if task == "niah_single_3" else "number"
    num_keys = 4 if task in ("niah_multikey_1", "niah_multiquery") else 1
    num_values = 4 if task == "niah_multivalue" else 1
    keys = vocabulary.distinct(lambda rng: vocabulary.key_name(rng, source), rng, num_keys)
    values = [[_value(rng, kind) for _ in range(num_values)] for _ in keys]
    needles = [
        needle(kind, key, value) for key, found in zip(keys, values, strict=True) for value in found
    ]
    asked = keys if task == "niah_multiquery" else keys[:1]
    golds = needles if task in ("niah_multiquery", "niah_multivalue") else needles[:1]
    shuffled = rng.sample(needles, len(needles))
    prose = _prose(rng, num_words, path)
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


def _prose(rng: Random, num_words: int, path: str | None) -> list[str]:
    """Returns sentences of so many words in all; the last one is cut where they end."""
    prose: list[str] = []
    left = num_words
    source = vocabulary.sentences(rng, path)
    while left > 0:
        words = next(source).split()[:left]
        prose.append(" ".join(words))
        left -= len(words)
    return prose
