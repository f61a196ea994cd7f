"""Reciting one of several near-identical replies of a long dialogue, after MRCR.

The texts come from templates and are easier to tell apart than MRCR's own.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest, vocabulary
from agenticlu.records import Document, Question, content_id, content_seed

KINDS = ("short note", "story", "riddle", "song", "letter", "speech")
NUM_NEEDLES = {"mrcr_2": 2, "mrcr_4": 4, "mrcr_8": 8}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
REPLY_SENTENCES = 2


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` dialogues with 2, 4 or 8 equal requests."""
    for index in range(request.num_items):
        yield _item(request, index)


def _item(request: TaskRequest, index: int) -> Item:
    seed = content_seed(request.task, str(request.seed), str(request.length), str(index))
    rng = Random(seed)
    num = NUM_NEEDLES[request.task]
    kind, topic = rng.choice(KINDS), rng.choice(vocabulary.nouns())

    def turn(what: str, about: str) -> tuple[str, str]:
        source = vocabulary.sentences(rng)
        reply = " ".join(next(source) for _ in range(REPLY_SENTENCES))
        return f"User: Write a {what} about a {about}.", reply

    gold = [turn(kind, topic) for _ in range(num)]
    count = request.tokenizer.count
    room = request.length - count("\n".join(f"{a}\nAssistant: {b}" for a, b in gold))
    if room < 0:
        raise DoesNotFitError(request.task, request.length)
    others = []
    while True:
        made = turn(rng.choice(KINDS), rng.choice(vocabulary.nouns()))
        if made[0] == gold[0][0]:
            continue
        room -= count(f"\n{made[0]}\nAssistant: {made[1]}")
        if room < 0:
            break
        others.append(made)
    turns = list(others)
    for place, one in zip(
        sorted(rng.randrange(len(others) + 1) for _ in gold)[::-1], gold[::-1], strict=True
    ):
        turns.insert(place, one)
    asked = rng.randrange(num)
    prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=10))
    text = "\n".join(f"{a}\nAssistant: {b}" for a, b in turns)
    start = text.index(gold[asked][1])
    return Item(
        task=request.task,
        length=request.length,
        document=Document.of(text, f"{request.task}:{request.seed}:{index}"),
        question=Question(
            id=content_id(request.task, str(seed)),
            text=f"The document is a dialogue. Write {prefix} and, right after it, the "
            f"{ORDINALS[asked]} {kind} about a {topic}, word for word and nothing else.",
            answers=(prefix + gold[asked][1],),
        ),
        rule="recite",
        gold_spans=((start, start + len(gold[asked][1])),),
        max_tokens=200,
        reference={"prefix": prefix},
    )
