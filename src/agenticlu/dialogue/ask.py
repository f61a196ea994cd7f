"""Asks one question of one document and returns the answer with the passages behind it.

The dialogue is that of `agenticlu.dialogue.steps`: clarify, point back, sub-answer, answer,
self-check. All of its turns are one session, so that an engine with a prefix cache reads the
document once.

A document longer than the model's window is refused, or, with `spans`, read piecewise: every piece
is scored, with the edges of its neighbours, against the question and against each clarification,
and the dialogue runs over the pieces that bear on them. The answer then says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agenticlu.core.errors import BudgetExceededError, DocumentTooLongError
from agenticlu.core.records import (
    Document,
    Piece,
    Question,
    Turn,
    TurnKind,
    Usage,
    content_seed,
)
from agenticlu.dialogue.answer import Answer, Event, make_question
from agenticlu.dialogue.caveats import page_notes, quote_notes
from agenticlu.dialogue.claims import find_claims, find_findings, says_absent, state
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.run import (
    ROUND_TOKENS,
    PieceIndex,
    PieceScanner,
    ShownDocument,
    control_tokens,
    count_messages,
    run_dialogue,
)
from agenticlu.dialogue.steps import MAX_TOKENS, Dialogue, Profile, Request
from agenticlu.documents import split
from agenticlu.documents.citations import cite, statements
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import (
    Engine,
    Sampled,
    Sampling,
    ThoughtCutError,
    adaptations_of,
    setup_of,
    spent_on,
    thinking_room_of,
)
from agenticlu.evaluation.scoring.answers import parse_choice
from agenticlu.evaluation.scoring.final import LABEL, parse_final_answer

THOUGHT_SHARE = 4
"""Part of a window that is kept free for a thought, at most, when a document is read by spans."""


SHORTLIST = 128
"""Pieces of several documents that the model scores for a question, where nothing else is said."""
SPANS_HINT = "--spans reads the document piecewise and says so."


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
    shortlist: int = SHORTLIST,
    temperature: float = 0.0,
    pieces: Sequence[Piece] | None = None,
    index: PieceIndex | None = None,
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
        rounds: Maximum rounds; a self-check of yes ends them.
        piece_tokens: Maximum tokens of a piece.
        spans: Read a document that does not fit piecewise instead of refusing it.
        shortlist: Most pieces of several documents that are then scored, each time they are.
        temperature: 0 is greedy.
        pieces: The document's pieces, where the caller has split it already.
        index: Of these pieces, where the caller asks more than one question.
        max_total_tokens: Maximum prompt and sampled tokens; the best answer so far is returned.
        stop: Called before every turn; once it returns True, the latest answer is the answer.
        on_event: Called after every turn and while scanning.

    Raises:
        BudgetExceededError: The limit was reached before there was any answer.
        DocumentTooLongError: It does not fit and `spans` is off, or one piece alone does not.
        EngineError: The model could not be asked.
    """
    asked = make_question(document, question) if isinstance(question, str) else question
    cut = split(document, tokenizer, piece_tokens) if pieces is None else pieces
    shown = ShownDocument(document, tuple(cut), control_tokens(tokenizer))
    asking = _Asking(
        shown=shown,
        question=asked,
        tokenizer=tokenizer,
        scanner=PieceScanner(shown, profile, engine),
        index=index or PieceIndex(shown),
        rounds=rounds,
        shortlist=shortlist,
        temperature=temperature,
        window=(await engine.capabilities()).context_tokens,
        max_total_tokens=max_total_tokens,
        stop=stop or (lambda: False),
        on_event=on_event or (lambda event: None),
    )
    return await asking.run(spans=spans)


@dataclass
class _Asking:
    """One question being asked; lives for one call of `ask`."""

    shown: ShownDocument
    question: Question
    tokenizer: Tokenizer
    scanner: PieceScanner
    index: PieceIndex
    rounds: int
    shortlist: int
    temperature: float
    window: int | None
    max_total_tokens: int | None
    stop: Callable[[], bool]
    on_event: Callable[[Event], None]

    def __post_init__(self) -> None:
        self.document, self.engine = self.shown.document, self.scanner.engine
        self.usage = self.setup_before = Usage()
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}
        self.kept: tuple[int, ...] | None = None  # None: the whole document is shown
        self.latest: Dialogue | None = None
        self.longest_thought = 0
        self.stopped = False

    async def run(self, *, spans: bool) -> Answer:
        began = time.perf_counter()
        self.setup_before = setup_of(self.engine)
        try:
            dialogue = await self._converse(spans=spans)
        except DocumentTooLongError as error:
            # The engine may have read its window out of the refusal, or noticed that it cut.
            known, self.window = self.window, (await self.engine.capabilities()).context_tokens
            if not spans:
                error.hint = " ".join(filter(None, (error.hint, SPANS_HINT)))
            elif self.window is None:
                error.hint = "Name the model's window, such as --window 8192."
            if not spans or self.window in (None, known):
                raise
            dialogue = await self._converse(spans=spans)
        return self._answer(dialogue, time.perf_counter() - began)

    async def _converse(self, *, spans: bool) -> Dialogue:
        self.notes.clear()
        self.notes += page_notes(self.document)
        num_tokens = sum(piece.num_tokens for piece in self.shown.pieces)
        # What is far too long need not be shown as a whole to be measured.
        if spans and self.window is not None and num_tokens > self.window:
            over = num_tokens
        else:
            dialogue = self._dialogue(self.shown.view())
            over = self._overflow(dialogue)
        if over > 0:
            if not spans:
                raise self._too_long(over)
            await self._scan(self.question.text, 1)
            dialogue = self._dialogue(self.shown.view(self.kept))
        try:
            return await run_dialogue(
                dialogue, self._sample, may_ask=self._may_ask, after_turn=self._after_turn
            )
        except (ThoughtCutError, DocumentTooLongError) as error:
            # A later round may exceed a window that nobody named: what was answered stays.
            self.usage = self.usage + spent_on(error)
            if self.latest is None or self.latest.last("answer") is None:
                raise
            self.notes.append(f"Stopped after the answer: {error.message}")
            return self.latest

    def _dialogue(self, view: str) -> Dialogue:
        return Dialogue(
            profile=self.scanner.profile,
            document_id=self.document.id,
            view=view,
            question=self.question,
            max_rounds=self.rounds,
            ends_on_repeat=True,
            controls=self.shown.controls,
        )

    async def _sample(self, request: Request) -> Sampled:
        sampling = Sampling(
            temperature=self.temperature,
            max_tokens=MAX_TOKENS[request.kind],
            seed=content_seed(self.question.id, request.wording, str(len(request.messages))),
        )
        sampled = await self.engine.sample(request.messages, sampling, session=self.document.id)
        self.usage = self.usage + sampled.usage
        return sampled

    async def _after_turn(self, dialogue: Dialogue, turn: Turn) -> Dialogue:
        if turn.finish_reason == "length" and turn.kind != "check":
            limit = MAX_TOKENS[turn.kind]
            self.notes.append(f"The {_NAMES[turn.kind]} was cut off at {limit} tokens.")
        if dialogue.repeats:
            self.notes.append("The model asked the same again, so its last answer was kept.")
        pointed = self.shown.named(turn.reply, self.kept).valid if turn.kind == "point" else ()
        self.on_event(Event("turn", max(1, dialogue.rounds_begun), turn, pointed))
        self.latest = dialogue
        if turn.usage is not None:
            self.longest_thought = max(self.longest_thought, turn.usage.thinking_tokens)
        if turn.kind != "clarify" or self.kept is None or dialogue.repeats:
            return dialogue
        await self._scan(turn.reply, dialogue.round + 1)
        return replace(dialogue, view=self.shown.view(self.kept))

    # Window and budget

    def _overflow(self, dialogue: Dialogue) -> int:
        """Returns the tokens of the first round beyond the window; negative is room to spare."""
        request = dialogue.next_request()
        assert request is not None
        needed = self._count(request) + ROUND_TOKENS
        return 0 if self.window is None else needed - self.window

    def _may_ask(self, dialogue: Dialogue, request: Request) -> bool:
        """Whether the dialogue may continue; notes the reason if not."""
        where = f"Stopped before the {_NAMES[request.kind]} of round {dialogue.round + 1}"
        answered = dialogue.last("answer") is not None
        cost = self._count(request) + MAX_TOKENS[request.kind]
        if answered and self.stop():
            self.stopped = True
            self.notes.append(f"{where}, as requested.")
        elif self.window is not None and cost > self.window:
            self.notes.append(f"{where}: the conversation has filled the model's window.")
        elif not self._exceeds(cost + self.longest_thought):
            return True
        elif not answered:
            raise self._over_budget(cost + self.longest_thought)
        else:
            limit = f"{self.max_total_tokens:,}"
            self.notes.append(f"{where}: it could exceed the limit of {limit} tokens.")
        return False

    @property
    def _spent(self) -> int:
        return self.usage.prompt_tokens + self.usage.completion_tokens

    def _exceeds(self, tokens: int) -> bool:
        return self.max_total_tokens is not None and self._spent + tokens > self.max_total_tokens

    def _over_budget(self, tokens: int) -> BudgetExceededError:
        return BudgetExceededError(
            f"The limit of {self.max_total_tokens:,} tokens was reached before an answer: "
            f"{self._spent:,} are spent, and the next step may take {tokens:,}.",
            hint="--dry-run shows what a question may cost; --max-total-tokens sets the limit.",
        )

    def _count(self, request: Request) -> int:
        """Counts a conversation; the message with the document is counted once."""
        for message in request.messages:
            if message.content not in self.counts:
                self.counts[message.content] = count_messages((message,), self.tokenizer)
        return sum(self.counts[message.content] for message in request.messages)

    def _too_long(self, over: int) -> DocumentTooLongError:
        assert self.window is not None
        about = "about " if self.tokenizer.name.startswith("approximate") else ""
        return DocumentTooLongError(
            f"{self.document.source!r} is too long for {self.engine.name}: with the question and "
            f"room for the replies it takes {about}{self.window + over:,} tokens, the window holds "
            f"{self.window:,}; {about}{over:,} too many.",
            hint="Use a model with a longer window.",
        )

    # Reading by spans

    async def _scan(self, question: str, round_: int) -> None:
        """Scores every piece against one more question; keeps those relevant to any so far."""
        only = self._list(question, round_)
        pieces = [self.shown.pieces[index] for index in only]
        cost = sum(piece.num_tokens for piece in pieces) * 5 // 4 + 99 * len(pieces)
        if self._exceeds(cost):
            raise self._over_budget(cost)
        total = len(pieces)
        self.usage = self.usage + await self.scanner.scan(
            question,
            lambda done: self.on_event(Event("scan", round_, done=done, total=total)),
            only,
        )
        # By now it is known whether the model thinks, and so needs a part of its window for that.
        assert self.window is not None
        thought = min(thinking_room_of(self.engine), self.window // THOUGHT_SHARE)
        room = -self._overflow(self._dialogue(""))
        for free in (room - thought, room):
            self.kept = self.scanner.choose(
                free, lambda index: self.tokenizer.count(self.shown.view((index,))) + 1
            )
            if self.kept:
                break
        if not self.kept:
            raise DocumentTooLongError(
                f"Not even one piece fits the window of {self.engine.name} "
                f"({self.window:,} tokens) beside the dialogue.",
                hint="Use smaller pieces: --piece-tokens 64.",
            )
        self.on_event(Event("scan", round_, pieces=self.kept, done=total, total=total))

    def _list(self, question: str, round_: int) -> Sequence[int]:
        """Returns the pieces to score: all, or of several documents those that words find."""
        total = len(self.shown.pieces)
        if not self.document.parts or total <= self.shortlist:
            return range(total)
        self.on_event(Event("search", round_, total=total))
        return self.index.pick(question, self.shortlist)

    # The answer

    def _answer(self, dialogue: Dialogue, seconds: float) -> Answer:
        cited = self._cited(dialogue.turns)
        final, check = dialogue.last("answer"), dialogue.last("check")
        reply = final.reply if final else ""
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
        said = statements([t.reply for t in reversed(dialogue.turns) if t.kind in _STATING], LABEL)
        hints = (answer, reply, self.question.text)
        citations = cite(self.document, self.shown.pieces, cited, said, hints)
        stated = statements([reply], LABEL)
        self.notes += quote_notes(self.document, self.shown.pieces, stated, citations)
        statement = state(reply, answer, self.question)
        claims, citations = find_claims(
            statement,
            self.document,
            self.shown.pieces,
            citations,
            said,
            find_findings(dialogue.turns, lambda reply: self.shown.named(reply, self.kept).valid),
        )
        supported = bool(answer) and (bool(cited) or verdict == "yes")
        return Answer(
            document_id=self.document.id,
            source=self.document.source,
            question=self.question.text,
            options=self.question.options,
            answer=answer,
            supported=supported,
            checked=None if verdict is None else verdict == "yes",
            citations=citations,
            rounds=dialogue.rounds_begun,
            turns=dialogue.turns,
            num_pieces=len(self.shown.pieces),
            shown_pieces=self.kept,
            usage=self.usage,
            setup=setup_of(self.engine) - self.setup_before,
            seconds=seconds,
            engine=self.engine.name,
            profile=self.scanner.profile.label,
            tokenizer=self.tokenizer.name,
            notes=tuple(dict.fromkeys([*self.notes, *adaptations_of(self.engine)])),
            left_out=self.document.left_out_by_name,
            unread=self.document.unread,
            statement=statement,
            claims=claims,
            status="not_in_document"
            if says_absent(statement)
            else ("supported" if supported else "unsupported"),
            stopped=self.stopped,
        )

    def _cited(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        cited: set[int] = set()
        for turn in turns:
            if turn.kind != "point":
                continue
            marks = self.shown.named(turn.reply, self.kept)
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
        total, seen, scored = len(self.shown.pieces), len(self.kept), len(self.scanner.scores)
        if scored < total:
            text = (
                f"Read by spans: the documents do not fit the window, so a search by words chose "
                f"{scored:,} of their {total:,} pieces, which were scored one by one; "
                f"{total - scored:,} were not looked at. The dialogue saw {seen}."
            )
        else:
            text = (
                "Read by spans: the document does not fit the window, so each of its "
                f"{total} pieces was scored alone; the dialogue saw {seen}."
            )
        if not self.scanner.num_relevant:
            text += " None was found relevant; the likeliest were taken."
        elif self.scanner.num_left_out:
            text += f" {self.scanner.num_left_out} more seemed relevant, but did not fit."
        self.notes.append(text)


_STATING: tuple[TurnKind, ...] = ("answer", "sub_answer")
_NAMES: dict[TurnKind, str] = {
    "direct": "answer",
    "clarify": "clarification",
    "point": "pointback",
    "sub_answer": "sub-answer",
    "answer": "answer",
    "check": "self-check",
}
