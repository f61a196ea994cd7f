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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agenticlu.core.errors import (
    BudgetExceededError,
    DocumentTooLongError,
    EngineError,
    EngineRefusedError,
)
from agenticlu.core.records import (
    NO_PRICES,
    Document,
    Piece,
    Prices,
    Question,
    Turn,
    TurnKind,
    Usage,
    content_seed,
)
from agenticlu.dialogue.answer import Answer, Event, make_question
from agenticlu.dialogue.caveats import page_notes, span_note
from agenticlu.dialogue.conclusion import conclude
from agenticlu.dialogue.halting import Halt, PartialTurn, Stop, stop_early
from agenticlu.dialogue.run import (
    ROUND_TOKENS,
    PieceIndex,
    PieceScanner,
    ShownDocument,
    count_messages,
    run_dialogue,
    show_document,
)
from agenticlu.dialogue.steps import MAX_TOKENS, Dialogue, Profile, Request, render_earlier
from agenticlu.dialogue.stopping import StopRule, decide
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import (
    Engine,
    Sampled,
    Sampling,
    ThoughtCutError,
    adaptations_of,
    setup_of,
    share_prefix,
    spent_on,
    stream_of,
    thinking_room_of,
)

THOUGHT_SHARE = 4
"""Part of a window that is kept free for a thought, at most, when a document is read by spans."""
EARLIER_SHARE = 4
"""The same for the earlier questions of a follow-up."""

SHORTLIST = 128
"""Pieces of several documents that the model scores for a question, where nothing else is said."""
SPANS_HINT = "--spans (in Python spans=True) reads the document piecewise and says so."


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
    earlier: Sequence[tuple[str, str]] = (),
    stop: Stop | None = None,
    rule: StopRule | None = None,
    prices: Prices = NO_PRICES,
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
        pieces: The document's, where the caller has split it already.
        index: Of them, where the caller asks more than one question.
        max_total_tokens: Maximum prompt and sampled tokens; the best answer so far is returned.
        earlier: Earlier questions about the document, and their answers: this one may follow them.
        stop: Once it is true, or set, the work ends within one token with the best answer so far.
        rule: Says when a further round is worth it, in place of the self-check.
        prices: Of tokens; with them the answer says what it cost.
        on_event: Called with each step, and with the text of each turn as it comes.

    Raises:
        BudgetExceededError: The limit was reached before there was any answer.
        DocumentTooLongError: It does not fit and `spans` is off, or one piece alone does not.
        EngineError: The model could not be asked.
    """
    shown = show_document(document, tokenizer, piece_tokens, pieces)
    return await _Asking(
        shown=shown,
        question=make_question(document, question) if isinstance(question, str) else question,
        tokenizer=tokenizer,
        scanner=PieceScanner(shown, profile, engine),
        index=index or PieceIndex(shown),
        rounds=rounds, shortlist=shortlist, temperature=temperature,
        max_total_tokens=max_total_tokens, earlier=tuple(earlier), stop=stop, rule=rule,
        prices=prices, listener=on_event,
    ).run(spans=spans)  # fmt: skip


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
    max_total_tokens: int | None
    earlier: tuple[tuple[str, str], ...]
    stop: Stop | None
    rule: StopRule | None
    prices: Prices
    listener: Callable[[Event], None] | None

    def __post_init__(self) -> None:
        self.document, self.engine = self.shown.document, self.scanner.engine
        self.usage = self.setup_before = Usage()
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}
        self.kept: tuple[int, ...] | None = None  # None: the whole document is shown
        self.window: int | None = None
        self.halt = Halt(self.stop)
        self.on_event = self.listener or (lambda event: None)
        self.latest: Dialogue | None = None
        self.part: PartialTurn | None = None
        self.num_earlier = len(self.earlier)
        self.longest_thought = 0
        self.stopped = False

    async def run(self, *, spans: bool) -> Answer:
        began = time.perf_counter()
        self.setup_before = setup_of(self.engine)
        self.window = (await self.engine.capabilities()).context_tokens
        dialogue = await self.halt.run(self._find(spans=spans))
        if dialogue is None:
            dialogue = self._cut_short()
        return self._answer(dialogue, time.perf_counter() - began)

    async def _find(self, *, spans: bool) -> Dialogue:
        try:
            return await self._converse(spans=spans)
        except DocumentTooLongError as error:
            # The engine may have read its window out of the refusal, or noticed that it cut.
            known, self.window = self.window, (await self.engine.capabilities()).context_tokens
            if not spans:
                error.hint = " ".join(filter(None, (error.hint, SPANS_HINT)))
            elif self.window is None:
                error.hint = "Name the model's window, such as --window 8192."
            if not spans or self.window in (None, known):
                raise
            return await self._converse(spans=spans)

    def _cut_short(self) -> Dialogue:
        """Returns the dialogue that was stopped in the middle of a turn, or before any."""
        self.stopped = True
        before = self.latest or self._dialogue("")
        dialogue = stop_early(before, self.part)
        where = "while the document was searched"
        if self.part is not None:
            where = f"during the {_NAMES[self.part.request.kind]} of round {self.part.round}"
        end = "; it may be incomplete." if dialogue is not before else "."
        self.notes.append(f"Stopped {where}, as requested{end}")
        return dialogue

    async def _converse(self, *, spans: bool) -> Dialogue:
        self._begin_anew()
        num_tokens = sum(piece.num_tokens for piece in self.shown.pieces)
        # What is far too long need not be shown as a whole to be measured.
        if spans and self.window is not None and num_tokens > self.window:
            over = num_tokens
        else:
            view = self.shown.view()
            dialogue, over = self._fit(view)
            share_prefix(self.engine, view, self.document.source)
        if over > 0:
            if not spans:
                raise self._too_long(over)
            self._shorten_earlier()
            await self._scan(self._searched(), 1)
            dialogue = self._dialogue(self.shown.view(self.kept))
        try:
            return await run_dialogue(
                dialogue, self._sample, may_ask=self._begins, after_turn=self._after_turn
            )
        except (ThoughtCutError, DocumentTooLongError) as error:
            # A later round may exceed a window that nobody named: what was answered stays.
            self.usage = self.usage + spent_on(error)
            if self.latest is None or self.latest.last("answer") is None:
                raise
            self.notes.append(f"Stopped after the answer: {error.message}")
            return self.latest

    def _begin_anew(self) -> None:
        self.latest = self.part = None
        self.notes = list(page_notes(self.document))

    def _dialogue(self, view: str) -> Dialogue:
        return Dialogue(
            profile=self.scanner.profile,
            document_id=self.document.id,
            view=view,
            question=self.question,
            max_rounds=self.rounds,
            ends_on_repeat=True,
            controls=self.shown.controls,
            earlier=self.earlier,
        )

    def _begins(self, dialogue: Dialogue, request: Request) -> bool:
        """Whether the dialogue continues; tells that its next turn begins."""
        if not self._may_ask(dialogue, request):
            return False
        self.part = PartialTurn(request, dialogue.round + 1)
        self.on_event(Event("begin", self.part.round, turn_kind=request.kind))
        return True

    async def _sample(self, request: Request) -> Sampled:
        sampling = Sampling(
            temperature=self.temperature,
            max_tokens=MAX_TOKENS[request.kind],
            seed=content_seed(self.question.id, request.wording, str(len(request.messages))),
        )
        try:
            sampled = await self._listen(request, sampling)
        except asyncio.CancelledError as error:
            spent = spent_on(error)
            if not spent.prompt_tokens:  # a server says it with a reply's end
                self.notes.append("What the stopped turn cost is not known in full.")
            self.usage = self.usage + spent
            raise
        self.usage = self.usage + sampled.usage
        return sampled

    async def _listen(self, request: Request, sampling: Sampling) -> Sampled:
        """Samples a turn, and tells its text as it comes where that is wanted."""
        messages, session = request.messages, self.document.id
        if self.stop or self.listener:
            stream = stream_of(self.engine)
            try:
                return await stream(messages, sampling, session=session, on_text=self._hear)
            except (EngineRefusedError, ThoughtCutError):
                raise
            except EngineError as error:
                if not error.is_midway:
                    raise
        # A stream that broke off is not told twice: the whole reply takes the place of its parts.
        return await self.engine.sample(messages, sampling, session=session)

    def _hear(self, text: str) -> None:
        assert self.part is not None
        self.part.text += text
        kind = self.part.request.kind
        self.on_event(Event("text", self.part.round, turn_kind=kind, text=text))
        self.halt.look()

    async def _after_turn(self, dialogue: Dialogue, turn: Turn) -> Dialogue:
        if turn.finish_reason == "length" and turn.kind != "check":
            limit = MAX_TOKENS[turn.kind]
            self.notes.append(f"The {_NAMES[turn.kind]} was cut off at {limit} tokens.")
        if dialogue.repeats:
            self.notes.append("The model asked the same again, so its last answer was kept.")
        pointed = self.shown.named(turn.reply, self.kept).valid if turn.kind == "point" else ()
        self.on_event(Event("turn", max(1, dialogue.rounds_begun), turn, pointed))
        self.latest, self.part = dialogue, None
        if turn.usage is not None:
            self.longest_thought = max(self.longest_thought, turn.usage.thinking_tokens)
        if turn.kind == "check" and self.rule is not None:
            return decide(dialogue, self.shown, self.rule)
        if turn.kind != "clarify" or self.kept is None or dialogue.repeats:
            return dialogue
        await self._scan(turn.reply, dialogue.round + 1)
        return replace(dialogue, view=self.shown.view(self.kept))

    # Window and budget

    def _fit(self, view: str) -> tuple[Dialogue, int]:
        """Returns the dialogue over a view and its tokens beyond the window.

        The oldest of the earlier questions give way to the document, if that makes it fit.
        """
        whole = self.earlier
        while (over := self._overflow(self._dialogue(view))) > 0 and self.earlier:
            self.earlier = self.earlier[1:]
        if over > 0:
            self.earlier = whole
        self._note_earlier()
        return self._dialogue(view), over

    def _shorten_earlier(self) -> None:
        """Leaves out the oldest earlier questions that take too much of a window beside pieces."""
        assert self.window is not None
        room = self.window // EARLIER_SHARE
        while self.tokenizer.count(render_earlier(self.earlier, self.shown.controls)) > room:
            self.earlier = self.earlier[1:]
        self._note_earlier()

    def _note_earlier(self) -> None:
        if num_out := self.num_earlier - len(self.earlier):
            self.notes.append(
                f"There was no room for {num_out} of {self.num_earlier} earlier questions."
            )

    def _searched(self) -> str:
        """Returns the question as passages are searched for it: a follow-up with what it follows.

        A passage is scored alone, and "And where was she born?" names nobody.
        """
        if not self.earlier:
            return self.question.text
        before, answer = self.earlier[-1]
        return f"{self.question.text} (Asked before: {before} Answer: {answer})"

    def _overflow(self, dialogue: Dialogue) -> int:
        """Returns the tokens of the first round beyond the window; negative is room to spare."""
        request = dialogue.next_request()
        assert request is not None
        needed = self._count(request) + ROUND_TOKENS
        return 0 if self.window is None else needed - self.window

    def _may_ask(self, dialogue: Dialogue, request: Request) -> bool:
        """Whether the dialogue may continue; notes the reason if not."""
        where = f"Stopped before the {_NAMES[request.kind]} of round {dialogue.round + 1}"
        cost = self._count(request) + MAX_TOKENS[request.kind]
        if self.halt.wanted:
            self.stopped = True
            self.notes.append(f"{where}, as requested.")
        elif self.window is not None and cost > self.window:
            self.notes.append(f"{where}: the conversation has filled the model's window.")
        elif not self._exceeds(cost + self.longest_thought):
            return True
        elif dialogue.last("answer") is None:
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

    def _answer(self, dialogue: Dialogue, seconds: float) -> Answer:
        found = conclude(dialogue, self.shown, self.kept)
        spans = () if self.kept is None else [span_note(self.scanner, len(self.kept))]
        notes = [*self.notes, *spans, *found.notes, *adaptations_of(self.engine)]
        return found.model_copy(
            update={
                "usage": self.usage,
                "setup": setup_of(self.engine) - self.setup_before,
                "seconds": seconds,
                "engine": self.engine.name,
                "tokenizer": self.tokenizer.name,
                "notes": tuple(dict.fromkeys(notes)),
                "stopped": self.stopped,
                "cost": self.prices.price(self.usage),
            }
        )


_NAMES: dict[TurnKind, str] = {
    "direct": "answer",
    "clarify": "clarification",
    "point": "pointback",
    "sub_answer": "sub-answer",
    "answer": "answer",
    "check": "self-check",
}
