"""Stories about people, places and things among noise, after BABILong: qa1, qa2, qa3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from agenticlu.core.errors import UsageError
from agenticlu.evaluation.items import DoesNotFitError, Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.questions import Asked, item_of

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
PEOPLE = ("Mara", "Jon", "Sandor", "Dana")
THINGS = ("apple", "kettle", "lantern")
MIN_NOISE_TOKENS = 10
NUM_MOVES = {"babi_qa1": 6, "babi_qa2": 8, "babi_qa3": 10}
_TOLD = re.compile(
    rf"{'|'.join((*PLACES, *THINGS))}|\b(?:{'|'.join(PEOPLE)})\b", flags=re.IGNORECASE
)
"""What the stories are about; noise must not speak of it."""
MOST_UNSUITABLE = 100
"""Invented sentences in a row, none of them noise, after which no more are tried."""


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows; noise fills the length up to the facts."""
    for index in range(request.num_items):
        yield _item(request, index)


def _item(request: TaskRequest, index: int) -> Item:
    rng = Random(request.seed_of(index))
    facts, question, answer, golds = _STORIES[request.task](rng, NUM_MOVES[request.task])
    count = request.tokenizer.count
    room = request.length - sum(count(f" {fact}") for fact in facts)
    if room < 0:
        raise DoesNotFitError(request.task, request.length)
    noise = _noise(request, rng, room)
    gaps = sorted(rng.randrange(len(noise) + 1) for _ in facts)
    lines: list[str] = []
    spans: list[tuple[int, int]] = []
    at = length = 0
    for i in range(len(noise) + 1):
        while at < len(facts) and gaps[at] == i:
            if at in golds:
                spans.append((length, length + len(facts[at])))
            lines.append(facts[at])
            length += len(facts[at]) + 1
            at += 1
        if i < len(noise):
            lines.append(noise[i])
            length += len(noise[i]) + 1
    asked = Asked(" ".join(lines), question, answer, tuple(spans), {"labels": PLACES})
    return item_of(request, index, asked, "only_label", 50)


def _noise(request: TaskRequest, rng: Random, room: int) -> list[str]:
    """Returns sentences of `room` tokens at most, each of ten or more, none about the story.

    Raises:
        UsageError: A haystack of one's own has no such sentence.
    """
    path = request.options.get("haystack")
    patience = len(vocabulary.prose_of(path)) if path else MOST_UNSUITABLE
    noise: list[str] = []
    unsuitable = 0
    for sentence in vocabulary.sentences(rng, path):
        cost = request.tokenizer.count(f" {sentence}")
        if MIN_NOISE_TOKENS <= cost <= room and not _TOLD.search(sentence):
            noise.append(sentence)
            room -= cost
            unsuitable = 0
            continue
        unsuitable += 1
        if unsuitable >= patience or (noise and cost > room):
            break
    if path and not noise and room >= MIN_NOISE_TOKENS:
        raise UsageError(
            f"No sentence of the haystack {path!r} can be noise: of {MIN_NOISE_TOKENS} to {room} "
            "tokens, and without the story's people, places and things.",
            hint="Give another file, or leave --haystack out for invented noise.",
        )
    return noise


Story = tuple[list[str], str, str, set[int]]
"""Facts, question, answer, and which facts are the evidence."""


def _moves(rng: Random, num: int) -> list[tuple[str, str]]:
    """Draws moves of people; nobody moves to where they are."""
    where: dict[str, str] = {}
    moves = []
    for _ in range(num):
        person = rng.choice(PEOPLE)
        place = rng.choice([p for p in PLACES if p != where.get(person)])
        where[person] = place
        moves.append((person, place))
    return moves


def _where_is_who(rng: Random, num: int) -> Story:
    moves = _moves(rng, num)
    person = rng.choice(sorted({who for who, _ in moves}))
    last = max(i for i, (who, _) in enumerate(moves) if who == person)
    facts = [f"{who} went to the {place}." for who, place in moves]
    return facts, f"Where is {person}?", moves[last][1], {last}


def _carried(rng: Random, num: int) -> tuple[list[str], str, list[tuple[str, int, int]]]:
    """One thing is picked up and carried about: facts, the thing, (place, move, pick-up)."""
    thing, carrier = rng.choice(THINGS), rng.choice(PEOPLE)
    facts: list[str] = []
    seen: list[tuple[str, int, int]] = []
    where: dict[str, str] = {}
    picked = -1
    for i in range(num):
        if i == num // 3:
            place = where.get(carrier)
            if place is None:
                place = rng.choice(PLACES)
                facts.append(f"{carrier} went to the {place}.")
                where[carrier] = place
            picked = len(facts)
            facts.append(f"{carrier} picked up the {thing} there.")
            seen.append((place, picked - 1, picked))
        person = carrier if i > num // 3 and i % 2 else rng.choice(PEOPLE)
        place = rng.choice([p for p in PLACES if p != where.get(person)])
        where[person] = place
        facts.append(f"{person} went to the {place}.")
        if person == carrier and picked >= 0:
            seen.append((place, len(facts) - 1, picked))
    return facts, thing, seen


def _where_is_what(rng: Random, num: int) -> Story:
    facts, thing, seen = _carried(rng, num)
    place, move, picked = seen[-1]
    return facts, f"Where is the {thing}?", place, {move, picked}


def _where_was_what(rng: Random, num: int) -> Story:
    """Asks for the place before the last one; the last place occurs once on the way."""
    while True:
        facts, thing, seen = _carried(rng, num)
        places = [place for place, _, _ in seen]
        if len(seen) > 1 and places.count(places[-1]) == 1:
            break
    before, last = seen[-2], seen[-1]
    question = f"Where was the {thing} before the {last[0]}?"
    return facts, question, before[0], {before[1], last[1], last[2]}


_STORIES = {"babi_qa1": _where_is_who, "babi_qa2": _where_is_what, "babi_qa3": _where_was_what}
