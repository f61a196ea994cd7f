"""Asks one question of one document and returns the answer with the passages behind it.

The dialogue is that of `agenticlu.dialogue.steps`: clarify, point back, sub-answer, answer,
self-check. All of its turns are one session, so that an engine with a prefix cache reads the
document once.

A document longer than the model's window is refused, or, with `spans`, read piecewise: every piece
is scored, with the edges of its neighbours, against the question and against each clarification,
and the dialogue runs over the pieces that bear on them. The answer then says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agenticlu.core.errors import (
    AgenticluError,
    BudgetExceededError,
    DocumentTooLongError,
    NoSupportedAnswerError,
)
from agenticlu.core.records import (
    Document,
    Message,
    Piece,
    Question,
    Record,
    Turn,
    TurnKind,
    Usage,
    content_id,
    content_seed,
)
from agenticlu.dialogue.profiles import RELEVANCE_CHOICES, Profile, render_relevance
from agenticlu.dialogue.replies import parse_verdict, strip_thinking
from agenticlu.dialogue.steps import FULL_ROUND, MAX_TOKENS, Dialogue, Request
from agenticlu.documents import Marks, mark, neutralise, parse_marks, split
from agenticlu.documents.citations import Citation, cite, find_quote, fold, statements
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import Completion, Engine, Sampling
from agenticlu.evaluation.scoring.answers import parse_choice, parse_final_answer

TEMPLATE_TOKENS = 12
"""What a chat template adds to a message, at most, as far as the window is concerned."""
RELEVANT = 0.5
"""Least probability of yes, plus half of maybe, of a piece that is kept when reading by spans."""
KEPT_AT_LEAST = 4
"""Pieces shown when none is found relevant: the likeliest ones."""
SCANS_IN_FLIGHT = 16


class Answer(Record):
    """What the document says to a question."""

    document_id: str
    source: str
    question: str
    options: tuple[str, ...] = ()
    answer: str
    """Final answer; of a multiple choice question, the letter, or '' where none was chosen."""
    supported: bool
    """Whether the model named a passage of the document, or its self-check said yes."""
    checked: bool | None = None
    """The last self-check's verdict; None when it gave none."""
    citations: tuple[Citation, ...] = ()
    rounds: int = 0
    turns: tuple[Turn, ...] = ()
    num_pieces: int = 0
    shown_pieces: tuple[int, ...] | None = None
    """Pieces that the model saw in the dialogue, when reading by spans; None means all."""
    usage: Usage = Usage()
    seconds: float = 0.0
    engine: str = ""
    profile: str = ""
    tokenizer: str = ""
    notes: tuple[str, ...] = ()
    """What a reader should know: invalid marks, cut replies, spans, unverified quotes."""


EventKind = Literal["scan", "turn"]


@dataclass(frozen=True)
class Event:
    """A step of the work, told while it happens."""

    kind: EventKind
    round: int
    """From 1."""
    turn: Turn | None = None
    pieces: tuple[int, ...] = ()
    """Valid marks of a `point` turn; pieces kept by a finished scan."""
    done: int = 0
    """Pieces scored so far."""
    total: int = 0


@dataclass(frozen=True)
class Estimate:
    """What asking would cost, before anything is sent."""

    document_tokens: int
    """Tokens of the document as shown, markers included."""
    num_pieces: int
    requests: int
    """Requests at most; the self-check may end the rounds sooner."""
    prompt_tokens: int
    """Prompt tokens over all requests, at most."""
    cached_tokens: int
    """Those of them that an engine with a prefix cache need not compute again."""
    completion_tokens: int
    """Sampled tokens at most."""
    window_tokens: int | None
    """The model's window; None when unknown."""
    fits: bool | None
    """Whether document and first round fit the window; None when unknown."""
    needed_tokens: int
    """Tokens that the first round needs in the window."""
    approximate: bool
    """Whether tokens were estimated for want of the model's tokenizer."""


async def ask(
    document: Document,
    question: str | Question,
    engine: Engine,
    *,
    tokenizer: Tokenizer,
    profile: Profile,
    rounds: int = 1,
    piece_tokens: int = 512,
    spans: bool = False,
    temperature: float = 0.0,
    pieces: Sequence[Piece] | None = None,
    max_total_tokens: int | None = None,
    stop: Callable[[], bool] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Answer:
    """Answers a question over a document.

    Args:
        document: The document.
        question: Open, or a `Question` with options.
        engine: Samples the replies.
        tokenizer: The model's, or an approximate one; pieces are measured with it.
        profile: Wordings.
        rounds: Rounds at most; a self-check of yes ends them.
        piece_tokens: Tokens of a piece at most.
        spans: Read a document that does not fit piecewise instead of refusing it. One that fits is
            read whole all the same.
        temperature: 0 is greedy.
        pieces: The document's pieces, where the caller has split it already.
        max_total_tokens: Prompt and sampled tokens at most. On the limit the best answer so far
            is returned, and marked in its notes.
        stop: Asked before every turn; once it says so, the answer at hand is the answer.
        on_event: Called after every turn and while scanning.

    Raises:
        BudgetExceededError: The limit was reached before there was any answer.
        DocumentTooLongError: It does not fit and `spans` is off, or one piece alone does not fit.
        EngineError: The model could not be asked.
    """
    if isinstance(question, str):
        question = make_question(document, question)
    if pieces is None:
        pieces = split(document, tokenizer, piece_tokens)
    window = (await engine.capabilities()).context_tokens
    asking = _Asking(
        document=document,
        question=question,
        engine=engine,
        tokenizer=tokenizer,
        profile=profile,
        rounds=rounds,
        pieces=tuple(pieces),
        temperature=temperature,
        window=window,
        max_total_tokens=max_total_tokens,
        stop=stop or (lambda: False),
        on_event=on_event or (lambda event: None),
    )
    return await asking.run(spans=spans)


def make_question(document: Document, text: str, options: Sequence[str] = ()) -> Question:
    """Builds a question with an id made of document, text and options."""
    text = text.strip()
    return Question(id=content_id(document.id, text, *options), text=text, options=tuple(options))


def check_supported(answer: Answer) -> None:
    """Raises NoSupportedAnswerError for an answer that nothing in the document supports."""
    if not answer.supported:
        raise NoSupportedAnswerError(
            "The document does not support an answer: the model named no passage of it"
            + (", and its own check says no." if answer.checked is False else "."),
            hint="Ask more precisely, allow more rounds (--rounds 3), or try another model.",
        )


def estimate(
    document: Document,
    question: Question,
    *,
    tokenizer: Tokenizer,
    profile: Profile,
    rounds: int = 1,
    pieces: Sequence[Piece],
    window: int | None,
) -> Estimate:
    """Counts what asking would cost; sends nothing."""
    view = mark(document, pieces, controls=control_tokens(tokenizer))
    dialogue = Dialogue(profile=profile, document_id=document.id, view=view, question=question)
    first = dialogue.next_request()
    assert first is not None
    opening = count_messages(first.messages, tokenizer)
    prompt = cached = completion = before = 0
    length = opening
    kinds = (*dialogue.opening, *FULL_ROUND * rounds)
    for turn, kind in enumerate(kinds):
        if turn:
            length += tokenizer.count(getattr(profile, kind)[0].text) + TEMPLATE_TOKENS
            length += tokenizer.count(question.text) if kind == "answer" else 0
        prompt += length
        cached += before
        before = length
        completion += MAX_TOKENS[kind]
        length += MAX_TOKENS[kind] + TEMPLATE_TOKENS
    needed = opening + ROUND_TOKENS
    return Estimate(
        document_tokens=tokenizer.count(view),
        num_pieces=len(pieces),
        requests=len(kinds),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        window_tokens=window,
        fits=None if window is None else needed <= window,
        needed_tokens=needed,
        approximate=tokenizer.name.startswith("approximate"),
    )


def control_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Returns the control tokens of a tokenizer that knows them."""
    controls: tuple[str, ...] = getattr(tokenizer, "controls", ())
    return controls


def count_messages(messages: Sequence[Message], tokenizer: Tokenizer) -> int:
    """Returns the tokens of a conversation, chat template included (an upper estimate)."""
    return sum(tokenizer.count(message.content) + TEMPLATE_TOKENS for message in messages)


ROUND_TOKENS = sum(MAX_TOKENS[kind] + 3 * TEMPLATE_TOKENS for kind in FULL_ROUND)
"""Window that one round needs beside its first request."""


@dataclass
class _Asking:
    """One question being asked; lives for one call of `ask`."""

    document: Document
    question: Question
    engine: Engine
    tokenizer: Tokenizer
    profile: Profile
    rounds: int
    pieces: tuple[Piece, ...]
    temperature: float
    window: int | None
    max_total_tokens: int | None
    stop: Callable[[], bool]
    on_event: Callable[[Event], None]

    def __post_init__(self) -> None:
        self.usage = Usage()
        self.notes: list[str] = []
        self.scores: dict[int, float] = {}
        self.counts: dict[str, int] = {}
        self.kept: tuple[int, ...] | None = None  # None: the whole document is shown
        self.controls = control_tokens(self.tokenizer)
        # Options and question come from outside, too.
        self.asked = self.question.model_copy(
            update={
                "text": neutralise(self.question.text, self.controls),
                "options": tuple(neutralise(o, self.controls) for o in self.question.options),
            }
        )

    async def run(self, *, spans: bool) -> Answer:
        began = time.perf_counter()
        self._note_pages()
        dialogue = self._dialogue(self._view(None))
        if not self._fits(dialogue):
            if not spans:
                raise self._too_long(dialogue)
            await self._scan(self.asked.text, 1)
            dialogue = self._dialogue(self._view(self.kept))
        while (request := dialogue.next_request()) is not None:
            if (reason := self._reason_to_stop(request, dialogue)) is not None:
                self.notes.append(reason)
                break
            turn = await self._take_turn(request)
            dialogue = dialogue.advance(turn)
            if dialogue.repeats:
                self.notes.append("The model asked the same once more: its last answer stands.")
            marks = self._marks(turn) if turn.kind == "point" else None
            self.on_event(
                Event("turn", max(1, dialogue.rounds_begun), turn, marks.valid if marks else ())
            )
            if turn.kind == "clarify" and self.kept is not None and not dialogue.repeats:
                await self._scan(neutralise(turn.reply, self.controls), dialogue.round + 1)
                dialogue = replace(dialogue, view=self._view(self.kept))
        return self._answer(dialogue, time.perf_counter() - began)

    # The window

    def _dialogue(self, view: str) -> Dialogue:
        return Dialogue(
            profile=self.profile,
            document_id=self.document.id,
            view=view,
            question=self.asked,
            max_rounds=self.rounds,
            ends_on_repeat=True,
        )

    def _view(self, only: Collection[int] | None) -> str:
        return mark(self.document, self.pieces, only, controls=self.controls)

    def _fits(self, dialogue: Dialogue) -> bool:
        request = dialogue.next_request()
        assert request is not None
        return self.window is None or self._needed(request) <= self.window

    def _reason_to_stop(self, request: Request, dialogue: Dialogue) -> str | None:
        """Returns why the dialogue must end before a request; None when it may go on."""
        where = f"Stopped before the {_NAMES[request.kind]} of round {dialogue.round + 1}"
        answered = any(turn.kind == "answer" for turn in dialogue.turns)
        if answered and self.stop():
            return f"{where}, as asked."
        cost = self._count(request) + MAX_TOKENS[request.kind]
        if self.window is not None and cost > self.window:
            return f"{where}: the conversation has filled the model's window."
        if self._exceeds(cost):
            if not answered:
                raise self._over_budget(cost)
            return f"{where}: the limit of {self.max_total_tokens:,} tokens would be passed."
        return None

    def _exceeds(self, tokens: int) -> bool:
        spent = self.usage.prompt_tokens + self.usage.completion_tokens
        return self.max_total_tokens is not None and spent + tokens > self.max_total_tokens

    def _over_budget(self, tokens: int) -> BudgetExceededError:
        spent = self.usage.prompt_tokens + self.usage.completion_tokens
        return BudgetExceededError(
            f"The limit of {self.max_total_tokens:,} tokens is reached before an answer: "
            f"{spent:,} are spent, and the next step may take {tokens:,}.",
            hint="--dry-run says what a question may cost; --max-total-tokens sets the limit.",
        )

    def _needed(self, request: Request) -> int:
        return self._count(request) + ROUND_TOKENS

    def _count(self, request: Request) -> int:
        """Counts a conversation; the message with the document is counted once."""
        for message in request.messages:
            if message.content not in self.counts:
                self.counts[message.content] = count_messages((message,), self.tokenizer)
        return sum(self.counts[message.content] for message in request.messages)

    def _too_long(self, dialogue: Dialogue) -> DocumentTooLongError:
        request = dialogue.next_request()
        assert request is not None
        assert self.window is not None
        needed = self._needed(request)
        about = "about " if self.tokenizer.name.startswith("approximate") else ""
        return DocumentTooLongError(
            f"{self.document.source!r} is too long for {self.engine.name}: with the question and "
            f"room for the replies it takes {about}{needed:,} tokens, the window holds "
            f"{self.window:,}; {about}{needed - self.window:,} too many.",
            hint="--spans reads it piecewise and says so; or use a model with a longer window.",
        )

    # Reading by spans

    async def _scan(self, asked: str, round_: int) -> None:
        """Scores every piece against a question and keeps those that bear on any so far."""
        limit = asyncio.Semaphore(SCANS_IN_FLIGHT)
        done = 0
        cost = sum(p.num_tokens for p in self.pieces) * 5 // 4 + 99 * len(self.pieces)
        if self._exceeds(cost):
            raise self._over_budget(cost)

        async def read(piece: Piece) -> tuple[int, float, Usage]:
            nonlocal done
            messages = render_relevance(
                self.profile, self.document.id, self._span_text(piece), [asked]
            )
            async with limit:
                scored = await self.engine.score_choices(
                    messages, RELEVANCE_CHOICES, session=self.document.id
                )
            done += 1
            self.on_event(Event("scan", round_, done=done, total=len(self.pieces)))
            chances = scored.probabilities
            return piece.index, chances["yes"] + chances["maybe"] / 2, scored.usage

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read(piece)) for piece in self.pieces]
        except BaseExceptionGroup as error:
            raise _first_of_ours(error) from error
        for index, score, usage in (task.result() for task in tasks):
            self.scores[index] = max(score, self.scores.get(index, 0.0))
            self.usage = self.usage + usage
        self._keep()
        self.on_event(
            Event("scan", round_, pieces=self.kept or (), done=done, total=len(self.pieces))
        )

    def _span_text(self, piece: Piece) -> str:
        """Returns a piece with an eighth of a piece of its neighbours on either side.

        Spans overlap, so that a fact cut by a border is whole in one of them.
        """
        edge = (piece.end - piece.start) // 8
        text = self.document.text
        start, end = max(0, piece.start - edge), min(len(text), piece.end + edge)
        while start < piece.start and start > 0 and not text[start - 1].isspace():
            start += 1
        while end > piece.end and end < len(text) and not text[end].isspace():
            end -= 1
        return neutralise(text[start:end], self.controls)

    def _keep(self) -> None:
        """Chooses the pieces to show: the most relevant ones, as many as half the window holds."""
        assert self.window is not None
        ranked = sorted(self.scores, key=lambda index: (-self.scores[index], index))
        relevant = [index for index in ranked if self.scores[index] >= RELEVANT]
        wanted = relevant or ranked[:KEPT_AT_LEAST]
        empty = self._dialogue("").next_request()
        assert empty is not None
        room = self.window - self._needed(empty)
        kept: list[int] = []
        for index in wanted:
            room -= self.tokenizer.count(self._view((index,))) + 1
            if room < 0:
                break
            kept.append(index)
        if not kept:
            raise DocumentTooLongError(
                f"Not even one piece fits the window of {self.engine.name} "
                f"({self.window:,} tokens) beside the dialogue.",
                hint="Use smaller pieces: --piece-tokens 64.",
            )
        self.kept = tuple(sorted(kept))
        self.relevant, self.left_out = len(relevant), len(wanted) - len(kept)

    # Turns

    async def _take_turn(self, request: Request) -> Turn:
        sampling = Sampling(
            temperature=self.temperature,
            max_tokens=MAX_TOKENS[request.kind],
            seed=content_seed(self.question.id, request.wording, str(len(request.messages))),
        )
        sampled = await self.engine.sample(request.messages, sampling, session=self.document.id)
        self.usage = self.usage + sampled.usage
        completion = sampled.completions[0]
        reply = strip_thinking(completion.text)
        if reply != completion.text:
            completion = Completion(reply, completion.finish_reason)
        if completion.finish_reason == "length" and request.kind != "check":
            self.notes.append(
                f"The {_NAMES[request.kind]} was cut off at {sampling.max_tokens} tokens."
            )
        return request.turn(completion, sampled.usage)

    def _marks(self, turn: Turn) -> Marks:
        marks = parse_marks(turn.reply, len(self.pieces))
        if self.kept is None:
            return marks
        shown = set(self.kept)
        hidden = tuple(index for index in marks.valid if index not in shown)
        return Marks(
            valid=tuple(index for index in marks.valid if index in shown),
            out_of_range=tuple(sorted((*marks.out_of_range, *hidden))),
            duplicated=tuple(index for index in marks.duplicated if index in shown),
        )

    # The answer

    def _answer(self, dialogue: Dialogue, seconds: float) -> Answer:
        cited = self._cited(dialogue.turns)
        final = next((t for t in reversed(dialogue.turns) if t.kind == "answer"), None)
        reply = final.reply if final else ""
        check = next((t for t in reversed(dialogue.turns) if t.kind == "check"), None)
        verdict = parse_verdict(check.reply, ("yes", "no")) if check else None
        if self.question.options:
            answer = parse_choice(reply, self.question.options) or ""
            if not answer:
                self.notes.append("The reply names none of the options.")
        else:
            answer = parse_final_answer(reply)
        if check is not None and verdict is None:
            self.notes.append("The self-check gave no clear verdict.")
        elif verdict == "no" and cited:
            self.notes.append("The model's own check says that the answer is not settled.")
        self._note_spans()
        said = statements([t.reply for t in reversed(dialogue.turns) if t.kind in _STATING])
        hints = (answer, reply, self.question.text)
        citations = cite(self.document, self.pieces, cited, said, hints)
        self._note_quotes(statements([reply]), citations)
        return Answer(
            document_id=self.document.id,
            source=self.document.source,
            question=self.question.text,
            options=self.question.options,
            answer=answer,
            supported=bool(answer) and (bool(cited) or verdict == "yes"),
            checked=None if verdict is None else verdict == "yes",
            citations=citations,
            rounds=dialogue.rounds_begun,
            turns=dialogue.turns,
            num_pieces=len(self.pieces),
            shown_pieces=self.kept,
            usage=self.usage,
            seconds=seconds,
            engine=self.engine.name,
            profile=self.profile.label,
            tokenizer=self.tokenizer.name,
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def _cited(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        cited: set[int] = set()
        for turn in turns:
            if turn.kind != "point":
                continue
            marks = self._marks(turn)
            cited.update(marks.valid)
            if marks.out_of_range:
                wrong = ", ".join(map(str, marks.out_of_range[:5]))
                self.notes.append(f"The model named paragraphs that it was not shown: {wrong}.")
            elif not marks.valid:
                self.notes.append("The model named no paragraph.")
        return tuple(sorted(cited))

    def _note_spans(self) -> None:
        if self.kept is None:
            return
        text = (
            f"Read by spans: the document does not fit the window, so each of its "
            f"{len(self.pieces)} pieces was weighed alone; the dialogue saw {len(self.kept)}."
        )
        if not self.relevant:
            text += " None was found relevant; the likeliest were taken."
        elif self.left_out:
            text += f" {self.left_out} more seemed relevant, but did not fit."
        self.notes.append(text)

    def _note_pages(self) -> None:
        blank = [page.number for page in self.document.pages if page.start == page.end]
        if blank:
            listed = ", ".join(map(str, blank[:8])) + (", ..." if len(blank) > 8 else "")
            self.notes.append(
                f"{len(blank)} of {len(self.document.pages)} pages have no text layer and were "
                f"not read: {listed}."
            )

    def _note_quotes(self, said: Sequence[str], citations: Sequence[Citation]) -> None:
        """Says so when the model states a fact that stands elsewhere, or nowhere."""
        if not said or any(citation.verified for citation in citations):
            return
        text = self.document.text
        folded = fold(text)
        for statement in said:
            if (span := find_quote(statement, folded, text)) is not None:
                piece = next(p for p in self.pieces if p.start <= span[0] < p.end)
                self.notes.append(
                    f"The model's statement stands in paragraph {piece.index}, "
                    "which it did not name."
                )
                return
        if citations:
            self.notes.append("The model's statement does not stand in the document word for word.")


_STATING: tuple[TurnKind, ...] = ("answer", "sub_answer")
_NAMES: dict[TurnKind, str] = {
    "direct": "answer",
    "clarify": "clarification",
    "point": "pointback",
    "sub_answer": "sub-answer",
    "answer": "answer",
    "check": "self-check",
}


def _first_of_ours(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first of our errors in a group, else its first error."""
    errors = (group.subgroup(AgenticluError) or group).exceptions
    first = errors[0]
    return _first_of_ours(first) if isinstance(first, BaseExceptionGroup) else first
