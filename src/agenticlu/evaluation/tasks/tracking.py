"""Variable tracking, after RULER's vt: which names hold a value through a chain of assignments."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from agenticlu.core.records import content_seed
from agenticlu.evaluation.helmet.layout import Template
from agenticlu.evaluation.items import DoesNotFitError, Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter
from agenticlu.evaluation.tasks.ruler import Made, ruler_items, template_of

HOPS = 4
EXAMPLE_TOKENS = 500
"""Of the worked example at most. At lengths below 4096 it may take a quarter of the length, or else
has no filler lines."""


@dataclass(frozen=True)
class Chain:
    """A text of filler lines in which names are assigned one after the other."""

    text: str
    names: list[str]
    value: str
    assignments: list[str]


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows."""
    example = Example(request, template_of(request))

    def build(rng: Random, num_lines: int) -> Made:
        shown = example.text(rng.getrandbits(32))
        chain = _chain(rng, rng, num_lines, 5)
        row = {
            "context": chain.text,
            "query": chain.value,
            "num_v": HOPS + 1,
            "example": shown,
            "answer": chain.names,
        }
        return Made(row, tuple(chain.assignments))

    fitter = Fitter[Made](request, step=10)
    yield from ruler_items(request, build, fitter, 50)


def _chain(places_rng: Random, names_rng: Random, num_lines: int, letters: int) -> Chain:
    """Draws where the assignments stand from one generator, names and value from another."""

    def name(source: Random) -> str:
        return "".join(source.choices(string.ascii_uppercase, k=letters))

    names = vocabulary.distinct(name, names_rng, HOPS + 1)
    value = str(names_rng.randint(10000, 99998))
    assignments = [f"VAR {names[0]} = {value}"]
    assignments += [f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(names)]
    places = sorted(places_rng.randrange(num_lines + 1) for _ in assignments)
    lines = [vocabulary.FILLER_LINE] * num_lines
    for place, assignment in reversed(list(zip(places, assignments, strict=True))):
        lines.insert(place, assignment)
    return Chain(" ".join(lines), names, value, assignments)


class Example:
    """The worked example: one text for all rows, with other names and another value in each.

    Args:
        request: Its length and tokenizer bound the example.
        template: Its wording.
    """

    def __init__(self, request: TaskRequest, template: Template) -> None:
        self._request = request
        self._template = template
        self._places_seed = content_seed("vt example", str(request.seed), str(request.length))
        short = request.length < 4096
        room = min(EXAMPLE_TOKENS, request.length // 4) if short else EXAMPLE_TOKENS
        self._fitter = Fitter[str](request, step=1, least=0, room=room)

    def text(self, seed: int) -> str:
        """Returns the example with the names that follow from a seed."""

        def build(num_lines: int) -> str:
            chain = _chain(Random(self._places_seed), Random(seed), num_lines, 3)
            fields = {"query": chain.value, "num_v": HOPS + 1, "example": ""}
            shown = self._template.user.format(context=chain.text, **fields)
            label = self._template.label.format(**fields)
            return f"{shown}{self._template.separator}{label} {' '.join(chain.names)}"

        count = self._request.tokenizer.count
        try:
            return self._fitter.row(build, count)
        except DoesNotFitError:
            bare = build(0)
            if count(bare) > EXAMPLE_TOKENS:
                raise
            return bare
