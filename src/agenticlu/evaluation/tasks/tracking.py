"""Variable tracking, after RULER's vt: which names hold a value through a chain of assignments."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.helmet.layout import Template, load_templates
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter, Made

HOPS = 4
EXAMPLE_LINES = 6
GEN_TOKENS = 50


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows."""
    template = load_templates(request.options.get("templates"))["vt"]

    def build(rng: Random, size: int) -> Made:
        return _row(rng, size, template)

    step = 10 if request.length >= 4096 else 2
    gen_tokens = min(GEN_TOKENS, request.length // 4)
    fitter = Fitter(request, build, step=step, gen_tokens=gen_tokens)
    for index in range(request.num_items):
        yield fitter.item(index)


def _chain(rng: Random, num_lines: int, letters: int) -> tuple[str, list[str], str, list[str]]:
    """Returns text, names, value and the assignments of one chain."""

    def name(source: Random) -> str:
        return "".join(source.choices(string.ascii_uppercase, k=letters))

    names = vocabulary.distinct(name, rng, HOPS + 1)
    value = str(rng.randint(10000, 99998))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(names)]
    lines = [vocabulary.FILLER_LINE] * num_lines
    places = sorted(rng.randrange(num_lines + 1) for _ in chain)
    for place, assignment in reversed(list(zip(places, chain, strict=True))):
        lines.insert(place, assignment)
    return " ".join(lines), names, value, chain


def _row(rng: Random, num_lines: int, template: Template) -> Made:
    context, names, value, chain = _chain(rng, num_lines, 5)
    text, other, number, _ = _chain(rng, EXAMPLE_LINES, 3)
    fields = {"query": number, "num_v": HOPS + 1, "example": ""}
    shown = template.user.format(context=text, **fields)
    example = f"{shown}{template.separator}{template.label.format(**fields)} {' '.join(other)}"
    row = {
        "context": context,
        "query": value,
        "num_v": HOPS + 1,
        "example": example,
        "answer": names,
    }
    return Made(row, tuple(chain))
