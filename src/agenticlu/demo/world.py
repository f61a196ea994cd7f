"""The synthetic world: documents about invented people, with questions of one to three hops.

A document states facts about people, towns and events, one short sentence each, scattered among
filler and distractors. A question follows one to three of them:

    >>> world = World(seed=0)
    >>> document = world.document("train", 0, 300, lambda text: len(text.split()))
    >>> sorted({len(question.hops) for question in document.questions})
    [1, 2, 3]

Everything follows from the seed, the split and the index, by content hashes: the same in every
process. The splits share no people (a person is a pair of first name and surname, and the pairs
are divided by a hash), while every single name, town, trade, animal and thing occurs in all of
them. No model and no tokenizer is needed here: lengths are counted by the callable passed in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from agenticlu.core.records import content_id, content_seed
from agenticlu.demo.lexicon import (
    DISTRACTORS,
    EVENTS,
    FILLER,
    FIRST_NAMES,
    GOODS,
    OPENINGS,
    RELATIONS,
    SLOTS,
    SURNAMES,
    TOWNS,
)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CountTokens = Callable[[str], int]
MAX_HOPS = 3
HOP_MIX = (2, 1, 3, 2)
"""Hops of the questions of a document, repeated in this order: a quarter needs one fact, half
need two, a quarter needs three."""

VARIED = 0.25
"""Share of the facts that a document states in other words than answers do."""
OPENED = 0.2
"""Share of the facts whose sentence has an opening such as `These days`."""


class Span(Protocol):
    """Anything with character offsets into a document, such as `agenticlu.core.records.Piece`."""

    @property
    def start(self) -> int:
        """First character."""
        ...

    @property
    def end(self) -> int:
        """One past the last character."""
        ...


PERSON_RELATIONS = ("home", "trade", "animal", "thing", "friend", "teacher")
"""Stated for every person of a document."""


@dataclass(frozen=True)
class Fact:
    """One sentence of a document that states one relation."""

    relation: str
    key: str
    value: str
    sentence: str
    """The plain sentence, as answers restate it: `Mira Dallow lives in Brellin.`"""
    start: int
    """First character of the sentence in the document: perhaps reworded,
    perhaps with an opening such as `These days`."""
    end: int
    """One past its last character."""

    @property
    def question(self) -> str:
        """The question that this fact alone answers."""
        return RELATIONS[self.relation].question.format(x=self.key)


@dataclass(frozen=True)
class Hop:
    """One step of a gold chain."""

    fact: Fact
    question: str
    """The sub-question, with the name found in the step before filled in."""
    answer: str


@dataclass(frozen=True)
class WorldQuestion:
    """A question with everything that is known about it."""

    id: str
    text: str
    answers: tuple[str, ...]
    """Accepted answers, the canonical one first."""
    hops: tuple[Hop, ...]
    """The gold chain, in the order in which it has to be resolved."""
    statement: str
    """The answer as one sentence in the question's own terms, without the steps between:
    `The friend of Mira Dallow lives in Brellin.`"""

    @property
    def answer(self) -> str:
        """The canonical answer."""
        return self.answers[0]

    @property
    def start(self) -> str:
        """The entity that the question starts from: a person, a town or an event."""
        return self.hops[0].fact.key


@dataclass(frozen=True)
class WorldDocument:
    """A generated document with its facts and questions."""

    id: str
    split: Split
    text: str
    facts: tuple[Fact, ...]
    """In the order of the text."""
    people: tuple[str, ...]
    questions: tuple[WorldQuestion, ...]


@dataclass(frozen=True)
class MultipleChoice:
    """A question with four options."""

    question: WorldQuestion
    options: tuple[str, ...]
    letter: str
    """Letter of the right option, A to D."""


class World:
    """Generator of documents.

    Args:
        seed: Worlds of different seeds have the same people but different documents.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def document(
        self,
        split: Split,
        index: int,
        tokens: int,
        count_tokens: CountTokens,
        people: int | None = None,
        num_questions: int = 8,
    ) -> WorldDocument:
        """Generates one document; equal arguments give an equal document, everywhere.

        Args:
            split: Which people may occur.
            index: Number of the document within its split.
            tokens: Length aimed at; the document has at most so many tokens and, unless its facts
                alone are shorter than that and `people` is set, at least 95% of them.
            count_tokens: Counts the tokens of a text.
            people: People in it; None lets the number grow slowly with the length.
            num_questions: Questions asked of it.

        Raises:
            ValueError: The facts about so many people do not fit in so many tokens.
        """
        parts = (str(self.seed), split, str(index), str(tokens), str(people))
        rng = Random(content_seed("world", *parts))
        names = draw_people(rng, split, people or people_for(tokens))
        stated = draw_facts(rng, names)
        text, facts = write_document(rng, stated, names, tokens, count_tokens)
        document_id = content_id(text)
        questions = build_questions(facts)
        return WorldDocument(
            id=document_id,
            split=split,
            text=text,
            facts=facts,
            people=names,
            questions=tuple(_choose(rng, questions, num_questions)),
        )


def split_of(first: str, surname: str) -> Split:
    """Returns the split that a person belongs to: eight in ten are for training."""
    bucket: int = content_seed("person", first, surname) % 10
    return "test" if bucket == 9 else "validation" if bucket == 8 else "train"


def people_for(tokens: int) -> int:
    """Returns how many people a document has: 3 at 256 tokens, 5 at 512, 8 at 1K, 12 at 2K."""
    return max(2, min(28, round(3.0 * math.pow(tokens / 256, 0.68))))


def draw_people(rng: Random, split: Split, num: int) -> tuple[str, ...]:
    """Draws people of a split; no first name and no surname occurs twice."""
    firsts = rng.sample(FIRST_NAMES, len(FIRST_NAMES))
    surnames = rng.sample(SURNAMES, len(SURNAMES))
    people: list[str] = []
    for first in firsts:
        surname = next((name for name in surnames if split_of(first, name) == split), None)
        if surname is None:
            continue
        surnames.remove(surname)
        people.append(f"{first} {surname}")
        if len(people) == num:
            return tuple(people)
    raise ValueError(f"{num} people are more than a document can hold; ask for {len(people)}.")


def draw_facts(rng: Random, people: Sequence[str]) -> list[tuple[str, str, str]]:
    """Draws (relation, key, value) triples: six per person, a few about towns and events.

    Values of a relation differ between people, so that no question has two right answers.
    """
    facts: list[tuple[str, str, str]] = []
    homes: tuple[str, ...] = ()
    for name in ("home", "trade", "animal", "thing"):
        values = tuple(rng.sample(RELATIONS[name].values or (), len(people)))
        homes = values if name == "home" else homes
        facts += [(name, person, value) for person, value in zip(people, values, strict=True)]
    for name in ("friend", "teacher"):
        facts += [(name, person, other) for person, other in _others(rng, people)]
    some = max(1, len(people) // 3)
    towns = rng.sample(homes, some)
    facts += [("mayor", town, rng.choice(people)) for town in towns]
    facts += [
        ("good", town, good)
        for town, good in zip(towns, rng.sample(GOODS, len(towns)), strict=True)
    ]
    facts += [("winner", event, rng.choice(people)) for event in rng.sample(EVENTS, some)]
    return facts


def render_fact(relation: str, key: str, value: str) -> str:
    """Returns the plain sentence that states a fact.

    >>> render_fact("friend", "Mira Dallow", "Tomas Reed")
    'The friend of Mira Dallow is Tomas Reed.'
    """
    return _capital(RELATIONS[relation].fact.format(x=key, v=value))


def build_questions(facts: Iterable[Fact], max_hops: int = MAX_HOPS) -> list[WorldQuestion]:
    """Builds every question that the facts answer, never passing an entity twice."""
    by_key: dict[str, list[Fact]] = {}
    for fact in facts:
        by_key.setdefault(fact.key, []).append(fact)
    questions: list[WorldQuestion] = []
    for chain in _chains(by_key, max_hops):
        questions.append(_ask(chain))
    return questions


def render_choices(
    rng: Random, question: WorldQuestion, facts: Sequence[Fact], people: Sequence[str]
) -> MultipleChoice:
    """Renders a question with four options: values of the same kind, of this document first.

    Args:
        rng: Draws and shuffles the options.
        question: The question.
        facts: The facts of its document.
        people: The people of its document.
    """
    last = question.hops[-1].fact
    kind = RELATIONS[last.relation].values
    here = {f.value for f in facts if f.relation == last.relation}
    here |= set(people) if kind is None else set()
    passed = {hop.fact.key for hop in question.hops}
    wrong = sorted(here - passed - set(question.answers))
    rng.shuffle(wrong)
    spare = kind or tuple(f"{a} {b}" for a, b in zip(FIRST_NAMES, SURNAMES, strict=True))
    wrong += [value for value in rng.sample(spare, 8) if value not in here]
    options = [question.answer, *wrong[:3]]
    rng.shuffle(options)
    return MultipleChoice(question, tuple(options), "ABCD"[options.index(question.answer)])


def gold_pieces(question: WorldQuestion, pieces: Sequence[Span]) -> tuple[int, ...]:
    """Returns the positions of the pieces that overlap a fact of the question's chain."""
    return tuple(
        i
        for i, piece in enumerate(pieces)
        if any(hop.fact.start < piece.end and piece.start < hop.fact.end for hop in question.hops)
    )


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _others(rng: Random, people: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields every person with another one, never themselves."""
    for person in people:
        yield person, rng.choice([other for other in people if other != person])


def _chains(by_key: dict[str, list[Fact]], max_hops: int) -> Iterator[tuple[Fact, ...]]:
    """Yields all chains of facts in which each value is the next key."""
    open_chains: list[tuple[Fact, ...]] = [(fact,) for facts in by_key.values() for fact in facts]
    while open_chains:
        chain = open_chains.pop()
        yield chain
        last = chain[-1]
        if len(chain) == max_hops or RELATIONS[last.relation].reference is None:
            continue
        passed = {fact.key for fact in chain}
        open_chains += [
            (*chain, fact) for fact in by_key.get(last.value, ()) if fact.value not in passed
        ]


def _ask(chain: tuple[Fact, ...]) -> WorldQuestion:
    """Builds the question that a chain answers."""
    subject = chain[0].key
    for fact in chain[:-1]:
        subject = (RELATIONS[fact.relation].reference or "{x}").format(x=subject)
    last = chain[-1]
    text = RELATIONS[last.relation].question.format(x=subject)
    statement = _capital(RELATIONS[last.relation].fact.format(x=subject, v=last.value))
    article = last.relation in ("trade", "animal", "thing")
    return WorldQuestion(
        id=content_id(text, last.value),
        text=text,
        answers=(last.value, f"a {last.value}") if article else (last.value,),
        hops=tuple(Hop(fact, fact.question, fact.value) for fact in chain),
        statement=statement,
    )


def _choose(rng: Random, questions: list[WorldQuestion], num: int) -> Iterator[WorldQuestion]:
    """Chooses questions in the proportions of `HOP_MIX`, evenly over the kinds of the last hop."""
    by_hops: dict[int, list[WorldQuestion]] = {hops: [] for hops in HOP_MIX}
    for question in rng.sample(questions, len(questions)):
        by_hops[len(question.hops)].append(question)
    asked: dict[str, int] = {}
    for i in range(num):
        pool = by_hops[HOP_MIX[i % len(HOP_MIX)]]
        if not pool:
            continue
        best = min(pool, key=lambda q: asked.get(q.hops[-1].fact.relation, 0))
        asked[best.hops[-1].fact.relation] = asked.get(best.hops[-1].fact.relation, 0) + 1
        pool.remove(best)
        yield best


def _fill(rng: Random, template: str, people: Sequence[str] = ()) -> str:
    """Fills the slots of a filler or distractor template."""
    chosen = rng.sample(people, 2) if people else []

    def value(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in ("x", "y"):
            return chosen["xy".index(slot)]
        return rng.choice(TOWNS if slot == "town" else SLOTS[slot])

    return _capital(re.sub(r"\{(\w+)\}", value, template))


@dataclass(frozen=True)
class _Sentence:
    """A sentence waiting for its place in the text."""

    text: str
    fact: tuple[str, str, str] | None = None


def write_document(
    rng: Random,
    stated: list[tuple[str, str, str]],
    people: Sequence[str],
    tokens: int,
    count_tokens: CountTokens,
) -> tuple[str, tuple[Fact, ...]]:
    """Writes a text of at most `tokens` tokens that states the facts in random order."""
    body = [_state(rng, fact) for fact in stated]
    counts = sum(count_tokens(" " + sentence.text) for sentence in body)
    # Room for the filler that opens the paragraphs and for the breaks between them.
    extra: list[_Sentence] = []
    while True:
        kind = DISTRACTORS if rng.random() < 0.3 else FILLER
        sentence = _Sentence(_fill(rng, rng.choice(kind), people if kind is DISTRACTORS else ()))
        cost = count_tokens(" " + sentence.text)
        if counts + cost > tokens:
            break
        counts += cost
        extra.append(sentence)
    while True:
        sentences = _arrange(rng, body, extra)
        text, facts = _join(sentences)
        over = count_tokens(text) - tokens
        if over <= 0:
            return text, facts
        if not extra:
            raise ValueError(
                f"The facts about {len(people)} people take {over} tokens more than {tokens}; "
                "ask for fewer people or a longer document."
            )
        while over > 0 and extra:
            over -= max(1, count_tokens(" " + extra.pop().text))


def _state(rng: Random, fact: tuple[str, str, str]) -> _Sentence:
    """Returns a fact's sentence as the document has it.

    Now and then in other words than answers use, now and then with an opening.
    """
    relation, key, value = fact
    chosen = RELATIONS[relation].variant if rng.random() < VARIED else RELATIONS[relation].fact
    sentence = chosen.format(x=key, v=value)
    if rng.random() < OPENED:
        return _Sentence(f"{rng.choice(OPENINGS)} {sentence}", fact)
    return _Sentence(_capital(sentence), fact)


def _arrange(
    rng: Random, body: Sequence[_Sentence], extra: Sequence[_Sentence]
) -> list[list[_Sentence]]:
    """Shuffles the sentences into paragraphs, each opened by filler while there is any.

    Filler first keeps names away from the start of a paragraph, where a tokenizer sees them without
    their leading space.
    """
    openers = [s for s in extra if _is_filler(s.text)]
    rest = [*body, *(s for s in extra if not _is_filler(s.text))]
    num_paragraphs = max(1, min(len(openers), (len(body) + len(extra)) // 6))
    heads, spare = openers[:num_paragraphs], openers[num_paragraphs:]
    rest += spare
    rng.shuffle(rest)
    paragraphs = [[head] for head in heads] or [[]]
    for i, sentence in enumerate(rest):
        paragraphs[i * len(paragraphs) // len(rest)].append(sentence)
    return paragraphs


def _is_filler(sentence: str) -> bool:
    """Whether a sentence names nobody."""
    return not any(first in sentence for first in FIRST_NAMES)


def _join(paragraphs: Sequence[Sequence[_Sentence]]) -> tuple[str, tuple[Fact, ...]]:
    """Joins paragraphs into a text and notes the position of every fact."""
    text = ""
    facts: list[Fact] = []
    for paragraph in paragraphs:
        text += "\n\n" if text else ""
        for i, sentence in enumerate(paragraph):
            text += " " if i else ""
            if sentence.fact is not None:
                start, end = len(text), len(text) + len(sentence.text)
                facts.append(Fact(*sentence.fact, render_fact(*sentence.fact), start, end))
            text += sentence.text
    return text, tuple(facts)
