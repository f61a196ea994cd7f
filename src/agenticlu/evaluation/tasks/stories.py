"""Stories about people, places and things among noise, after BABILong: qa1, qa2, qa3."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest, vocabulary
from agenticlu.records import Document, Question, content_id, content_seed

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
PEOPLE = ("Mara", "Jon", "Sandor", "Dana")
THINGS = ("apple", "kettle", "lantern")
MIN_NOISE_TOKENS = 10
NUM_MOVES = {"babi_qa1": 6, "babi_qa2": 8, "babi_qa3": 10}


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows; noise fills the length up to the facts."""
    for index in range(request.num_items):
        yield _item(request, index)


def _item(request: TaskRequest, index: int) -> Item:
    seed = content_seed(request.task, str(request.seed), str(request.length), str(index))
    rng = Random(seed)
    facts, question, answer, golds = _STORIES[request.task](rng, NUM_MOVES[request.task])
    count = request.tokenizer.count
    room = request.length - sum(count(f" {fact}") for fact in facts)
    if room < 0:
        raise DoesNotFitError(request.task, request.length)
    noise: list[str] = []
    for sentence in vocabulary.sentences(rng, request.options.get("haystack")):
        cost = count(f" {sentence}")
        if cost > room:
            break
        if cost >= MIN_NOISE_TOKENS:
            noise.append(sentence)
            room -= cost
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
    return Item(
        task=request.task,
        length=request.length,
        document=Document.of(" ".join(lines), f"{request.task}:{request.seed}:{index}"),
        question=Question(id=content_id(request.task, str(seed)), text=question, answers=(answer,)),
        rule="only_label",
        gold_spans=tuple(spans),
        max_tokens=50,
        reference={"labels": PLACES},
    )


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
