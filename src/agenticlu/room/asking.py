"""Questions under way: each runs in the engines' loop and tells its steps to the server's."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agenticlu.core.errors import AgenticluError
from agenticlu.core.loops import LoopThread
from agenticlu.core.records import NO_PRICES, Prices
from agenticlu.dialogue.answer import Answer, Event, make_question
from agenticlu.dialogue.ask import ask
from agenticlu.dialogue.steps import Profile
from agenticlu.room.history import History
from agenticlu.room.library import Library
from agenticlu.room.models import Models, RoomModel
from agenticlu.room.opened import Counted, OpenDocument
from agenticlu.room.refusals import RoomError, tell

MOST_RUNS = 32
"""Questions under way at one time."""
MOST_QUESTION = 20_000
"""Characters of a question with its options."""
Told = tuple[str, dict[str, Any]]
"""Name and data of an event."""


@dataclass(frozen=True)
class AskedWith:
    """How questions are asked."""

    profile: Profile
    rounds: int = 1
    shortlist: int = 128
    temperature: float = 0.0
    max_total_tokens: int | None = None
    prices: Prices = NO_PRICES


@dataclass(frozen=True)
class Asked:
    """One question."""

    document: OpenDocument
    question: str
    options: tuple[str, ...]
    rounds: int
    conversation: str


@dataclass(eq=False)
class Run:
    """A question under way."""

    asked: Asked
    id: str = field(default_factory=lambda: new_id())
    stop: threading.Event = field(default_factory=threading.Event)
    told: asyncio.Queue[Told | None] = field(default_factory=asyncio.Queue)
    trail: list[dict[str, Any]] = field(default_factory=list)


def new_id() -> str:
    """Returns a new id."""
    return uuid.uuid4().hex[:16]


class Asker:
    """Asks questions of open documents.

    Args:
        library: The documents.
        models: The models.
        loop: In which engines live.
        history: Keeps the answers.
        settings: How to ask.
    """

    def __init__(
        self,
        library: Library,
        models: Models,
        loop: LoopThread,
        history: History,
        settings: AskedWith,
    ) -> None:
        self._library, self._models, self._loop = library, models, loop
        self._history, self._settings = history, settings
        self._runs: dict[str, Run] = {}

    def begin(self, asked: Asked) -> Run:
        """Makes a run, which `events` starts.

        Raises:
            RoomError: There is no model, or too much under way.
        """
        self._models.require()
        if len(self._runs) >= MOST_RUNS:
            raise RoomError(
                f"{MOST_RUNS} questions are under way, as many as there may be.",
                status=503,
                hint="Wait for one of them, or stop one.",
            )
        run = Run(asked)
        self._runs[run.id] = run
        return run

    def stop(self, id: str) -> None:  # noqa: A002
        """Asks a run for its best answer so far.

        Raises:
            RoomError: It is not under way.
        """
        if id not in self._runs:
            raise RoomError("This question is not under way any more.", status=404)
        self._runs[id].stop.set()

    def close(self) -> None:
        """Ends all runs, whose readers are told."""
        for run in self._runs.values():
            run.told.put_nowait(
                ("error", {"message": "The reading room was closed.", "hint": None})
            )

    async def events(self, run: Run) -> AsyncGenerator[Told, None]:
        """Yields what happens, the answer or an error last; ending early stops the work."""
        work = asyncio.ensure_future(self._work(run))
        work.add_done_callback(lambda _: run.told.put_nowait(None))
        try:
            yield "open", {"run": run.id, "conversation": run.asked.conversation}
            while (told := await run.told.get()) is not None:
                yield told
                if told[0] == "error":
                    return
            yield work.result()
        finally:
            self._runs.pop(run.id, None)
            work.cancel()

    async def _work(self, run: Run) -> Told:
        """Asks; returns the last event."""
        try:
            return "answer", await self._answer(run)
        except AgenticluError as error:
            return "error", tell(error)
        except Exception:
            logging.getLogger(__name__).exception("A fault of the reading room")
            return "error", {"message": "Asking failed; the terminal says why.", "hint": None}

    async def _answer(self, run: Run) -> dict[str, Any]:
        document = run.asked.document
        await self._library.read_through(document)
        model = self._models.begin()
        try:
            counted = await self._library.counted(document)
            assert counted is not None
            loop = asyncio.get_running_loop()

            def hear(event: Event) -> None:
                loop.call_soon_threadsafe(self._hear, run, counted, event)

            earlier = await asyncio.to_thread(self._earlier, run.asked)
            asking = self._loop.submit(self._ask(run, model, counted, earlier, hear))
            answer = await asyncio.wrap_future(asking)
        finally:
            self._models.end(model)
        entry = await asyncio.to_thread(_entry, run, answer)
        await asyncio.to_thread(self._history.add, entry)
        return entry

    async def _ask(
        self, run: Run, model: RoomModel, counted: Counted, earlier: Any, hear: Any
    ) -> Answer:
        """Asks the model; in the engines' loop."""
        shown, asked = counted.shown, run.asked
        engine = await self._models.engine(model)
        assert model.tokenizer is not None
        return await ask(
            shown.document,
            make_question(shown.document, asked.question, asked.options),
            engine,
            tokenizer=model.tokenizer,
            profile=self._settings.profile,
            rounds=asked.rounds or self._settings.rounds,
            spans=True,
            shortlist=self._settings.shortlist,
            temperature=self._settings.temperature,
            pieces=shown.pieces,
            index=counted.index,
            max_total_tokens=self._settings.max_total_tokens,
            rule=model.rule,
            prices=self._settings.prices,
            earlier=earlier,
            stop=run.stop.is_set,
            on_event=hear,
        )

    def _earlier(self, asked: Asked) -> list[tuple[str, str]]:
        """Returns questions and answers of the conversation, of this document."""
        entries = self._history.conversation(asked.conversation)
        return [
            (one["question"], one["answer"].get("statement") or one["answer"]["answer"])
            for one in entries
            if one["document"] == asked.document.id
        ]

    def _hear(self, run: Run, counted: Counted, event: Event) -> None:
        """Tells a step."""
        turn = event.turn
        pieces = [counted.shown.pieces[index] for index in event.pieces]
        step: dict[str, Any] = {"kind": event.kind, "round": event.round}
        if event.kind in ("begin", "text"):
            step["turn_kind"] = event.turn_kind
        if event.kind == "text":
            step["text"] = event.text
        if event.kind in ("search", "scan"):
            step |= {"done": event.done, "total": event.total}
        if turn is not None:
            step |= {"turn_kind": turn.kind, "reply": turn.reply}
        if event.pieces:
            step["pieces"] = list(event.pieces)
            step["places"] = run.asked.document.places(pieces)
        if turn is not None:
            kept = {"round": event.round, "kind": turn.kind, "reply": turn.reply}
            run.trail.append({**kept, "places": step.get("places", [])})
        run.told.put_nowait(("step", step))


def _entry(run: Run, answer: Answer) -> dict[str, Any]:
    """Returns what is kept of an answered question."""
    asked = run.asked
    document = asked.document
    places = []
    for citation in answer.citations:
        start, end = citation.quote_start, citation.quote_end
        if start is None or end is None:
            start, end = citation.start, citation.end
        places.append(document.place(start, end, citation.piece))
    return {
        "id": new_id(),
        "conversation": asked.conversation,
        "document": document.id,
        "document_name": document.name,
        "asked_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "question": asked.question,
        "answer": answer.model_dump(mode="json"),
        "places": places,
        "trail": run.trail,
    }
