"""Common and frequent words, after RULER's cwe and fwe: counting over the whole text."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.helmet.layout import Template
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter
from agenticlu.evaluation.tasks.ruler import Made, ruler_items, template_of

NUM_COMMON = 10
NUM_ASKED = 3
"""Frequent words asked for: those of rank 2 to 4."""


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of `cwe` or `fwe`."""
    yield from _common(request) if request.task == "cwe" else _frequent(request)


def _common(request: TaskRequest) -> Iterator[Item]:
    words = vocabulary.words(vocabulary.source_of(request.options))
    template = template_of(request)
    short = request.length < 4096

    def build(rng: Random, num_words: int) -> Made:
        return _common_words(rng, num_words, template, words, short)

    fitter = Fitter[Made](request, step=10, least=NUM_COMMON + 1, most=len(words))
    yield from ruler_items(request, build, fitter, 100)


def _listed(rng: Random, words: list[str], often: int, seldom: int) -> tuple[str, list[str]]:
    """Returns a numbered list in which the first ten words stand more often, and those ten."""
    common = words[:NUM_COMMON]
    every = common * often + words[NUM_COMMON:] * seldom
    rng.shuffle(every)
    return _numbered(every), common


def _common_words(
    rng: Random, num_words: int, template: Template, words: tuple[str, ...], short: bool
) -> Made:
    shown = rng.sample(words, 20 if short else 40)
    text, other = _listed(rng, shown, *((3, 1) if short else (10, 3)))
    context, common = _listed(rng, rng.sample(words, num_words), *((6, 1) if short else (30, 3)))
    fields = {"example": "", "query": ""}
    example = template.user.format(context=text, **fields)
    example += f"{template.separator}{template.label} {_numbered(other)}"
    return Made({"context": context, "example": example, "answer": common})


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


def _frequent(request: TaskRequest) -> Iterator[Item]:
    num_coded = max(request.length // 50, 1 + NUM_ASKED)

    def build(rng: Random, num: int) -> Made:
        return _frequent_words(rng, zipf_counts(num, num_coded))

    def usable(num: int) -> bool:
        return is_decided(zipf_counts(num, num_coded))

    step = max(1, request.length // 32)
    fitter = Fitter[Made](request, step=step, start=request.length // 6, usable=usable)
    yield from ruler_items(request, build, fitter, 50)


def zipf_counts(num: int, num_coded: int) -> list[int]:
    """Returns how often each coded word occurs, by Zipf's law with exponent 2.

    >>> zipf_counts(100, 5)
    [60, 15, 6, 3, 2]
    """
    zeta = math.pi**2 / 6
    return [int(num * rank**-2 / zeta) for rank in range(1, num_coded + 1)]


def is_decided(counts: list[int]) -> bool:
    """Returns whether the last word asked for is more frequent than the first one that is not.

    >>> is_decided([27, 6, 3, 1, 1]), is_decided([33, 8, 3, 2, 1]), is_decided([12, 3, 1, 0])
    (False, True, False)
    """
    last = counts[NUM_ASKED]
    return last >= 1 and last > (counts[NUM_ASKED + 1] if len(counts) > NUM_ASKED + 1 else 0)


def _frequent_words(rng: Random, counts: list[int]) -> Made:
    """Coded words; the most frequent one is written as dots."""

    def coded(source: Random) -> str:
        return "".join(source.choices(string.ascii_lowercase, k=6))

    words = vocabulary.distinct(coded, rng, len(counts))
    every: list[str] = []
    for rank, (word, count) in enumerate(zip(words, counts, strict=True), start=1):
        every += ["..." if rank == 1 else word] * count
    rng.shuffle(every)
    return Made({"context": " ".join(every), "answer": words[1 : 1 + NUM_ASKED]})
