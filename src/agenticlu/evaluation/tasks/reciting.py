"""Reciting one of several near-identical replies of a long dialogue, after MRCR.

The texts come from templates and are easier to tell apart than MRCR's own.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter
from agenticlu.evaluation.tasks.questions import Asked, fitted_items

KINDS = ("short note", "story", "riddle", "song", "letter", "speech")
NUM_NEEDLES = {"mrcr_2": 2, "mrcr_4": 4, "mrcr_8": 8}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
REPLY_SENTENCES = 2

Turn = tuple[str, str]


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` dialogues with 2, 4 or 8 equal requests."""
    num_equal = NUM_NEEDLES[request.task]

    def build(rng: Random, num_others: int) -> Asked:
        return _dialogue(rng, num_equal, num_others)

    fitter = Fitter[Asked](request, step=1, least=0)
    yield from fitted_items(request, build, fitter, 200, "recite")


def _turn(rng: Random, kind: str, topic: str) -> Turn:
    source = vocabulary.sentences(rng)
    reply = " ".join(next(source) for _ in range(REPLY_SENTENCES))
    return f"User: Write a {kind} about a {topic}.", reply


def _dialogue(rng: Random, num_equal: int, num_others: int) -> Asked:
    kind, topic = rng.choice(KINDS), rng.choice(vocabulary.nouns())
    equal = [_turn(rng, kind, topic) for _ in range(num_equal)]
    asked = rng.randrange(num_equal)
    prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=10))
    turns: list[Turn] = []
    while len(turns) < num_others:
        made = _turn(rng, rng.choice(KINDS), rng.choice(vocabulary.nouns()))
        if made[0] != equal[0][0]:
            turns.append(made)
    places = sorted(rng.randrange(num_others + 1) for _ in equal)
    for place, one in reversed(list(zip(places, equal, strict=True))):
        turns.insert(place, one)
    text = "\n".join(f"{request}\nAssistant: {reply}" for request, reply in turns)
    wanted = equal[asked][1]
    start = text.index(wanted)
    return Asked(
        text,
        f"The document is a dialogue. Write {prefix} and, right after it, the "
        f"{ORDINALS[asked]} {kind} about a {topic}, word for word and nothing else.",
        prefix + wanted,
        ((start, start + len(wanted)),),
        {"prefix": prefix},
    )
