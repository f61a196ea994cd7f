"""What the tiny model is taught: rows for each kind of lesson, drawn from the training people."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from rows import Exchange, Part, Row, RowBuilder

from agenticlu.demo.lexicon import ANIMALS, GOODS, THINGS, TOWNS, TRADES
from agenticlu.demo.world import (
    PERSON_RELATIONS,
    Fact,
    Split,
    draw_facts,
    draw_people,
    write_document,
)
from agenticlu.dialogue.steps import Profile

NUMBERS = 128
"""Paragraph numbers that are drawn: those of 2K tokens in pieces of a sentence or two."""


@dataclass(frozen=True)
class Scene:
    """A short document and what it states."""

    text: str
    facts: tuple[Fact, ...]
    people: tuple[str, ...]


def count_words(text: str) -> int:
    """Counts tokens of world text: words, marks and paragraph breaks."""
    return len(re.findall(r"\w+|[^\w\s]|\n\n", text))


def draw_scene(
    rng: Random,
    split: Split,
    num_people: int,
    tokens: int,
    share: float = 1.0,
    relations: Collection[str] = (),
) -> Scene:
    """Draws a document; `share` of the facts are stated, filler makes up the rest of `tokens`.

    Args:
        rng: Draws everything.
        split: Whose people occur.
        num_people: How many.
        tokens: Length at most.
        share: Share of the facts that are stated.
        relations: Only facts of these relations; all when empty.
    """
    people = draw_people(rng, split, num_people)
    stated = [f for f in draw_facts(rng, people) if not relations or f[0] in relations]
    stated = rng.sample(stated, max(2, round(share * len(stated))))
    while True:
        try:
            text, facts = write_document(rng, stated, people, tokens, count_words)
            break
        except ValueError:  # too many facts for so few tokens
            stated = stated[: len(stated) * 4 // 5]
    return Scene(text, facts, people)


def restated(fact: Fact, skill: str) -> tuple[Part, ...]:
    """Returns the fact's sentence in parts; only its value counts."""
    before = fact.sentence.removesuffix(f" {fact.value}.")
    return (Part(f" {before}"), Part(f" {fact.value}", skill), Part("."))


def teach_restating(builder: RowBuilder, profile: Profile, split: Split, num_people: int) -> Row:
    """The first lesson: a few facts, then the same facts once more in another order.

    Often of one or two relations only, so that the person alone tells the value.
    """
    rng = builder.rng
    few = rng.random() < 0.6
    relations = rng.sample(PERSON_RELATIONS, rng.randint(1, 2)) if few else ()
    num_people += rng.randint(0, 2) if few else 0
    tokens = builder.size // 2 - 12
    scene = draw_scene(rng, split, num_people, tokens, 0.5 + 0.5 * rng.random(), relations)
    row = builder.open(f"<|bos|><|user|> {scene.text}")
    facts = list(scene.facts)
    while True:
        rng.shuffle(facts)
        parts = tuple(part for fact in facts for part in restated(fact, "restate"))
        if builder.add(row, [Exchange("", parts)]):
            continue
        facts = facts[: len(facts) // 2]
        if not facts:
            return row


def teach_asking(builder: RowBuilder, profile: Profile, split: Split, num_people: int) -> Row:
    """Questions of one hop about a short passage, asked bluntly so that many fit in a row."""
    rng = builder.rng
    scene = draw_scene(rng, split, num_people, builder.size // 2, 0.6 + 0.4 * rng.random())
    row = builder.open(f"<|bos|><|user|> {scene.text}")
    facts = list(scene.facts)
    rng.shuffle(facts)
    for fact in facts:
        parts = (*restated(fact, "ask"), Part(f" Answer: {fact.value}<|end|>"))
        if not builder.add(row, [Exchange(f"\n\nQuestion: {fact.question}", parts)]):
            break
    return row


def teach_pairing(builder: RowBuilder, profile: Profile, split: Split, num_people: int) -> Row:
    """The very first lesson: names with a value each, up to three words apart, said again.

    Finding what once stood after a name forms in minutes when the two are neighbours, and then
    stretches over the words between; starting with whole sentences it takes far longer. Half of the
    values are numbers, most of them in markers, so that pointing has something to copy with.
    """
    rng = builder.rng
    people = draw_people(rng, split, num_people + rng.randint(0, 3))
    if rng.random() < 0.5:
        values = [str(number) for number in rng.sample(range(NUMBERS), len(people))]
        between, end = rng.choice((("", "."), (" <para", ">"), (". <para", ">"), (". </para", ">")))
        again = between.replace("</", "<")
    else:
        values = rng.sample((*TOWNS, *TRADES, *ANIMALS, *THINGS, *GOODS), len(people))
        between = rng.choice(
            ("", " is", " keeps", " lives in", " keeps a", " owns a", " works as a")
        )
        again, end = between, "."
    told = [f" {x}{between} {v}{end}" for x, v in zip(people, values, strict=True)]
    row = builder.open("<|bos|><|user|>" + "".join(told))
    pairs = list(zip(people, values, strict=True))
    repeated: list[Part] = []
    for _ in range(2):
        rng.shuffle(pairs)
        for x, v in pairs:
            skill = "pair-number" if v.isdigit() else "pair"
            repeated += [Part(f" {x}"), Part(f"{again} {v}", skill), Part(end)]
    builder.add(row, [Exchange("", tuple(repeated))])
    return row
