"""Common and frequent words, after RULER's cwe and fwe: counting over the whole text."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from random import Random

from agenticlu.errors import UsageError
from agenticlu.evaluation.helmet.layout import Template, load_templates
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter, Made

NUM_COMMON = 10
GEN_TOKENS = {"cwe": 100, "fwe": 50}


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of `cwe` or `fwe`."""
    template = load_templates(request.options.get("templates"))[request.task]
    source = vocabulary.words(request.options.get("words", "own"))
    short = request.length < 4096

    def common(rng: Random, size: int) -> Made:
        return _common_words(rng, size, template, source, short)

    def frequent(rng: Random, size: int) -> Made:
        return _frequent_words(rng, request.length // 6 + size, request.length // 50)

    cwe = request.task == "cwe"
    fitter = Fitter(
        request,
        common if cwe else frequent,
        step=10 if cwe else max(1, request.length // 32),
        gen_tokens=min(GEN_TOKENS[request.task], request.length // 4),
    )
    for index in range(request.num_items):
        yield fitter.item(index)


def _listed(rng: Random, words: list[str], often: int, seldom: int) -> tuple[str, list[str]]:
    """Returns a numbered list in which the first ten words stand more often, and those ten."""
    common = words[:NUM_COMMON]
    every = common * often + words[NUM_COMMON:] * seldom
    rng.shuffle(every)
    return " ".join(f"{i}. {word}" for i, word in enumerate(every, start=1)), common


def _common_words(
    rng: Random, num_words: int, template: Template, source: tuple[str, ...], short: bool
) -> Made:
    if num_words + 40 > len(source):
        raise UsageError(f"The word list has {len(source)} words, too few for such a length.")
    drawn = rng.sample(source, max(num_words, NUM_COMMON + 1) + 40)
    size = 20 if short else 40
    text, other = _listed(rng, drawn[:size], *((3, 1) if short else (10, 3)))
    context, common = _listed(rng, drawn[40:], *((6, 1) if short else (30, 3)))
    fields = {"example": "", "query": ""}
    shown = template.user.format(context=text, **fields)
    example = f"{shown}{template.separator}{template.label} {_numbered(other)}"
    return Made({"context": context, "example": example, "answer": common})


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


def _frequent_words(rng: Random, num: int, size: int) -> Made:
    """Coded words by Zipf's law with exponent 2; the most frequent one is written as dots."""

    def coded(source: Random) -> str:
        return "".join(source.choices(string.ascii_lowercase, k=6))

    vocabulary_ = vocabulary.distinct(coded, rng, max(size, 4))
    zeta = math.pi**2 / 6
    every: list[str] = []
    for rank, word in enumerate(vocabulary_, start=1):
        every += ["..." if rank == 1 else word] * int(num * rank**-2 / zeta)
    rng.shuffle(every)
    return Made({"context": " ".join(every), "answer": vocabulary_[1:4]})
