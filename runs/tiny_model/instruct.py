"""The second half of the curriculum: every request of the dialogue, in the profile's own wordings.

The conversations are made by the package's own step machine, so what is learned here is what the
engine sends. They are those of an instruct model *before* any search: its clarifications are often
beside the point, and it then has to answer without their help.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lessons import NUMBERS, Scene, draw_scene
from rows import Exchange, Part, Row, RowBuilder, said

from agenticlu.core.records import Document, Piece, Question, Turn
from agenticlu.demo.world import (
    Fact,
    Split,
    WorldQuestion,
    build_questions,
    render_choices,
)
from agenticlu.dialogue.run import render_relevance
from agenticlu.dialogue.steps import DIRECT, FULL_ROUND, Dialogue, Profile
from agenticlu.documents import mark, render_marks, render_piece, split
from agenticlu.documents.tokens import FileTokenizer

PIECE_TOKENS = (16, 20, 24, 24, 32)
USEFUL = 0.3
"""How often the base model's clarification asks for the next fact that is needed."""
HABIT = 0.45
"""How often it asks, whatever is needed, where the person in question lives: its favourite."""
HOP_WEIGHTS = {1: 0.72, 2: 0.2, 3: 0.08}
"""Hops of the questions asked directly."""
DIALOGUE_HOPS = {1: 0.25, 2: 0.45, 3: 0.30}
"""Hops of the questions that a dialogue is held about."""


class Reading:
    """A document cut into pieces and numbered from anywhere, with its questions."""

    def __init__(self, rng: Random, scene: Scene, tokenizer: FileTokenizer, partly: bool) -> None:
        self.rng = rng
        self.scene = scene
        self.document = Document.of(scene.text, "world")
        self.id = f"{rng.getrandbits(64):x}"
        self.questions: dict[int, list[WorldQuestion]] = {1: [], 2: [], 3: []}
        for question in build_questions(scene.facts):
            self.questions[len(question.hops)].append(question)
        pieces = split(self.document, tokenizer, rng.choice(PIECE_TOKENS))
        room = NUMBERS - len(pieces)
        first = 0 if rng.random() < 0.3 else rng.randint(0, max(0, room))
        numbers = list(range(first, first + len(pieces)))
        if partly and room > 0 and rng.random() < 0.5:
            numbers = sorted(rng.sample(range(NUMBERS), len(pieces)))
        self.pieces = [
            piece.model_copy(update={"index": number})
            for piece, number in zip(pieces, numbers, strict=True)
        ]

    @property
    def marked(self) -> str:
        """The marked view."""
        return mark(self.document, self.pieces)

    def draw_question(self, hops: dict[int, float]) -> WorldQuestion:
        """Draws a question with hops in the given proportions."""
        open_hops = [n for n in hops if self.questions[n]]
        num = self.rng.choices(open_hops, [hops[n] for n in open_hops])[0]
        return self.rng.choice(self.questions[num])

    def marks_of(self, fact: Fact) -> str:
        """Returns the marks of the pieces that hold a fact."""
        return render_marks(
            p.index for p in self.pieces if fact.start < p.end and p.start < fact.end
        )


def teach_direct(builder: RowBuilder, profile: Profile, which: Split, num_people: int) -> Row:
    """Direct questions about a plain or a marked document."""
    reading = _read(builder, which, num_people)
    view = reading.scene.text if builder.rng.random() < 0.5 else reading.marked
    row = _open(builder, profile, reading, view)
    while True:
        question = reading.draw_question(HOP_WEIGHTS)
        asked = _asked(reading, question)
        dialogue = Dialogue(profile, reading.id, view, asked, DIRECT)
        request = dialogue.next_request()
        assert request is not None
        text = request.messages[-1].content.removeprefix(view)
        if not builder.add(
            row, [Exchange(text, answered(question, f"direct-{len(question.hops)}"))]
        ):
            return row


def teach_dialogue(builder: RowBuilder, profile: Profile, which: Split, num_people: int) -> Row:
    """Whole dialogues about a marked document."""
    reading = _read(builder, which, num_people)
    view = reading.marked
    row = _open(builder, profile, reading, view)
    misses = 0
    while misses < 2:
        question = reading.draw_question(DIALOGUE_HOPS)
        misses += not builder.add(row, hold_dialogue(reading, profile, question, view))
    return row


def teach_pointing(builder: RowBuilder, profile: Profile, which: Split, num_people: int) -> Row:
    """Questions about a marked document and the paragraphs that help with them, nothing more."""
    reading = _read(builder, which, num_people)
    view = reading.marked
    row = _open(builder, profile, reading, view)
    facts = list(reading.scene.facts)
    builder.rng.shuffle(facts)
    for fact in facts:
        asked = Question(id=f"{builder.rng.getrandbits(64):x}", text=fact.question)
        dialogue = Dialogue(profile, reading.id, view, asked, ("clarify", "point"))
        exchanges: list[Exchange] = []
        for reply, skill, weight in (
            (fact.question, "clarify", 0.0),
            (reading.marks_of(fact), "point", 2.0),
        ):
            request = dialogue.next_request()
            assert request is not None
            text = request.messages[-1].content.removeprefix(view)
            exchanges.append(said(text, reply, skill, weight))
            dialogue = dialogue.advance(
                Turn(kind=request.kind, wording=request.wording, request=request.text, reply=reply)
            )
        if not builder.add(row, exchanges):
            break
    return row


def teach_quoting(builder: RowBuilder, profile: Profile, which: Split, num_people: int) -> Row:
    """Facts of a marked document, restated with the marker of their paragraph."""
    reading = _read(builder, which, num_people)
    row = _open(builder, profile, reading, reading.marked)
    facts = [f for f in reading.scene.facts if reading.marks_of(f).count("<para") == 1]
    while facts:
        builder.rng.shuffle(facts)
        parts: list[Part] = []
        for fact in facts[:12]:
            parts += [
                Part(f" {fact.sentence}", "", 0.2),
                Part(f" {reading.marks_of(fact)}", "quote", 2.0),
            ]
        if not builder.add(row, [Exchange("", tuple(parts))]):
            break
    return row


def teach_numbering(builder: RowBuilder, profile: Profile, which: Split, num_people: int) -> Row:
    """Questions of one hop about a marked document, and the paragraphs that answer them."""
    reading = _read(builder, which, num_people)
    row = _open(builder, profile, reading, reading.marked)
    facts = list(reading.scene.facts)
    builder.rng.shuffle(facts)
    for fact in facts:
        asked = said(f"\nQuestion: {fact.question}", reading.marks_of(fact), "number", 2.0)
        if not builder.add(row, [asked]):
            break
    return row


def teach_relevance(builder: RowBuilder, profile: Profile, which: Split, num_people: int) -> Row:
    """One passage, many questions: does it help?"""
    rng = builder.rng
    reading = _read(builder, which, min(num_people, 7), min(builder.size, 640))
    piece = rng.choice(reading.pieces)
    passage = render_piece(reading.document, piece)
    messages = render_relevance(profile, reading.id, passage, [""])
    system, user = (message.content for message in messages)
    prefix = user.removesuffix("Question: ").rstrip()
    row = builder.open(f"<|bos|><|system|> {system}<|end|><|user|> {prefix}")
    all_questions = [q for n in (1, 2, 3) for q in reading.questions[n]]
    by_verdict: dict[str, list[WorldQuestion]] = {"yes": [], "maybe": [], "no": []}
    for question in all_questions:
        by_verdict[_verdict(question, piece, passage)].append(question)
    kinds = [kind for kind in by_verdict if by_verdict[kind]]
    while len(row.ids) < builder.size:
        verdict = rng.choice(kinds)
        question = rng.choice(by_verdict[verdict])
        if not builder.add(row, [said(f"\nQuestion: {question.text}", verdict, "relevance", 3.0)]):
            break
    return row


def hold_dialogue(
    reading: Reading, profile: Profile, question: WorldQuestion, view: str
) -> list[Exchange]:
    """Holds a dialogue of one or two rounds as the base model would, with right replies."""
    rng = reading.rng
    asked = Question(id=f"{rng.getrandbits(64):x}", text=question.text)
    rounds = 2 if rng.random() < (0.2, 0.4, 0.7)[len(question.hops) - 1] else 1
    dialogue = Dialogue(profile, reading.id, view, asked, FULL_ROUND, rounds)
    exchanges: list[Exchange] = []
    known = 0  # hops of the chain that have been found
    done: list[Fact] = []
    right = False
    while (request := dialogue.next_request()) is not None:
        text = request.messages[-1].content.removeprefix(view)
        parts: tuple[Part, ...]
        if request.kind == "clarify":
            fact = _clarified(reading, question, known, done)
            done.append(fact)
            hop = question.hops[min(known, len(question.hops) - 1)]
            known += fact == hop.fact and known < len(question.hops)
            parts = (Part(f" {fact.question}<|end|>", "clarify"),)
        elif request.kind == "point":
            parts = (Part(f" {reading.marks_of(done[-1])}<|end|>", "point", 2.0),)
        elif request.kind == "sub_answer":
            parts = (Part(f" {done[-1].sentence}<|end|>", "sub_answer"),)
        elif request.kind == "answer":
            parts, right = _answer(reading, question, known)
        else:
            settled = known >= len(question.hops) - 1
            parts = (Part(f" {'yes' if right else 'no'}<|end|>", f"check-{int(settled)}", 2.0),)
        exchanges.append(Exchange(text, parts))
        reply = "".join(part.text for part in parts).removesuffix("<|end|>").strip()
        turn = Turn(kind=request.kind, wording=request.wording, request=request.text, reply=reply)
        dialogue = dialogue.advance(turn)
    return exchanges


def answered(
    question: WorldQuestion, skill: str, known: int = 0, value: str = ""
) -> tuple[Part, ...]:
    """Returns the answer in parts: key first, then the value, which alone counts.

    Args:
        question: The question.
        skill: What the value counts as.
        known: Hops already found; the sentence starts from there.
        value: A wrong value to give instead; it is then not learned.
    """
    sentence = statement_from(question, known)
    before = sentence.removesuffix(f" {question.answer}.")
    weight = 0.0 if value else 1.0
    value = value or question.answer
    return (
        Part(f" {before}", "form", weight),
        Part(f" {value}", skill, weight),
        Part(f". Answer: {value}<|end|>", "", weight),
    )


def statement_from(question: WorldQuestion, known: int) -> str:
    """Returns the answer's sentence in terms of what is known after `known` hops."""
    if known == 0:
        return question.statement
    rest = question.hops[min(known, len(question.hops) - 1) :]
    return next(
        q.statement for q in build_questions(hop.fact for hop in rest) if len(q.hops) == len(rest)
    )


def _answer(reading: Reading, question: WorldQuestion, known: int) -> tuple[tuple[Part, ...], bool]:
    """Returns an answer turn and whether it is right.

    Where hops remain unresolved a model mostly guesses, so mostly the answer is wrong there; wrong
    answers are read, not learned.
    """
    left = len(question.hops) - known
    wrong_rate = 0.65 if left > 1 else 0.25
    if reading.rng.random() < wrong_rate:
        last = question.hops[-1].fact
        others = [
            f.value
            for f in reading.scene.facts
            if f.relation == last.relation and f.value != last.value
        ]
        if others:
            wrong = reading.rng.choice(others)
            return answered(question, "", known, wrong), False
    return answered(question, f"answer-{max(1, left)}", known), True


def _clarified(reading: Reading, question: WorldQuestion, known: int, done: Sequence[Fact]) -> Fact:
    """Draws the fact that a clarification asks for: the next one, or one beside the point."""
    rng = reading.rng
    needed = question.hops[min(known, len(question.hops) - 1)].fact
    facts = [f for f in reading.scene.facts if f.key in (needed.key, question.start)]
    drawn = rng.random()
    if drawn < USEFUL:
        return needed
    homes = [f for f in facts if f.relation == "home" and f not in done]
    if homes and drawn < USEFUL + HABIT:
        return homes[-1]
    beside = [f for f in facts if f not in done] or reading.scene.facts
    return rng.choice(beside)


def _verdict(question: WorldQuestion, piece: Piece, passage: str) -> str:
    """Says what can be told from the passage alone.

    yes: it states the first fact of the chain; maybe: it only mentions what the question names; no:
    neither. (That it states a later fact cannot be known without the first.)
    """
    first = question.hops[0].fact
    if piece.start <= first.start and first.end <= piece.end:
        return "yes"
    cut = first.start < piece.end and piece.start < first.end
    return "maybe" if cut or first.key in passage else "no"


def _asked(reading: Reading, question: WorldQuestion) -> Question:
    """Returns the question as a record, now and then as multiple choice."""
    options: tuple[str, ...] = ()
    if reading.rng.random() < 0.05:
        scene = reading.scene
        options = render_choices(reading.rng, question, scene.facts, scene.people).options
    return Question(id=f"{reading.rng.getrandbits(64):x}", text=question.text, options=options)


def _read(builder: RowBuilder, which: Split, num_people: int, tokens: int = 0) -> Reading:
    rng = builder.rng
    if not tokens:
        # Conversations need some 250 tokens; the rest of a row may be document.
        most = max(builder.size * 11 // 20, min(2048, builder.size - 800))
        tokens = rng.randint(builder.size // 4, most)
    scene = draw_scene(rng, which, num_people, tokens, 0.6 + 0.4 * rng.random())
    return Reading(rng, scene, builder.counter, partly=rng.random() < 0.5)


def _open(builder: RowBuilder, profile: Profile, reading: Reading, view: str) -> Row:
    system = profile.draw("system", reading.id).text
    return builder.open(f"<|bos|><|system|> {system}<|end|><|user|> {view}")
