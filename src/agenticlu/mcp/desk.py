"""The desk: one model and the documents that lie open, so that each is read once."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agenticlu.core.limits import ReadingLimits
from agenticlu.core.records import NO_PRICES, Document, Prices
from agenticlu.dialogue.answer import Answer, Event, make_question
from agenticlu.dialogue.ask import SHORTLIST, ask
from agenticlu.dialogue.run import PieceIndex, ShownDocument, show_document
from agenticlu.dialogue.steps import Profile
from agenticlu.dialogue.stopping import StopRule
from agenticlu.documents import load_document
from agenticlu.documents.sources import find_sources, is_address
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines import ModelChoice
from agenticlu.engines.base import Engine

OPEN_READINGS = 8
"""Readings that stay open; the one that was used longest ago makes room."""
Signature = tuple[tuple[str, int, int], ...]
"""Path, time of change and size of each file of a reading."""


@dataclass(frozen=True)
class Model:
    """What answers, and how it is asked."""

    choice: ModelChoice
    tokenizer: Tokenizer
    profile: Profile
    piece_tokens: int
    temperature: float = 0.0
    spans: bool = True
    shortlist: int = SHORTLIST
    max_total_tokens: int | None = None
    rule: StopRule | None = None
    prices: Prices = NO_PRICES


@dataclass(frozen=True)
class Reading:
    """Documents that were read as one."""

    shown: ShownDocument
    index: PieceIndex

    @property
    def document(self) -> Document:
        """What was read."""
        return self.shown.document


@dataclass
class Desk:
    """Reads documents and asks the model about them; both are kept.

    Args:
        model: What answers; loaded when the first question comes.
        limits: Of what is read as one.
        say: Tells whoever runs the server, such as that another server keeps it waiting.
    """

    model: Model
    limits: ReadingLimits = field(default_factory=ReadingLimits)
    say: Callable[[str], None] = lambda text: None
    _engine: Engine | None = None
    _readings: OrderedDict[Signature, Reading] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._loading = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def read(self, paths: Sequence[str]) -> Reading:
        """Returns a reading of documents; one that lies open where no file of it has changed.

        Args:
            paths: From `Folders.resolve`.

        Raises:
            DocumentError: See `load_document`.
        """
        async with self._reading:
            signature = await asyncio.to_thread(self._sign, paths)
            reading = self._readings.pop(signature, None) if signature else None
            if reading is None:
                reading = await asyncio.to_thread(self._load, paths)
            if signature:
                self._readings[signature] = reading
                while len(self._readings) > OPEN_READINGS:
                    self._readings.popitem(last=False)
            return reading

    async def ask(
        self,
        reading: Reading,
        question: str,
        options: Sequence[str] = (),
        *,
        rounds: int,
        on_event: Callable[[Event], None],
    ) -> Answer:
        """Asks a question about a reading; cancelling it stops the model's work.

        Raises:
            AgenticluError: See `agenticlu.dialogue.ask.ask`.
        """
        model = self.model
        return await ask(
            reading.document,
            make_question(reading.document, question, options),
            await self._get_engine(),
            tokenizer=model.tokenizer,
            profile=model.profile,
            rounds=rounds,
            spans=model.spans,
            shortlist=model.shortlist,
            temperature=model.temperature,
            pieces=reading.shown.pieces,
            index=reading.index,
            max_total_tokens=model.max_total_tokens,
            rule=model.rule,
            prices=model.prices,
            on_event=on_event,
        )

    async def close(self) -> None:
        """Releases the model or the connections."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None

    async def _get_engine(self) -> Engine:
        async with self._loading:
            if self._engine is None:
                self._engine = await asyncio.to_thread(self.model.choice.load, self.say)
            return self._engine

    def _sign(self, paths: Sequence[str]) -> Signature | None:
        """Returns what tells whether a reading is still that of its files; None for addresses."""
        if any(map(is_address, paths)):
            return None
        files = [source.address for source in find_sources(paths, self.limits).found]
        return tuple((path, (found := os.stat(path)).st_mtime_ns, found.st_size) for path in files)

    def _load(self, paths: Sequence[str]) -> Reading:
        document = load_document(paths, limits=self.limits)
        shown = show_document(document, self.model.tokenizer, self.model.piece_tokens)
        return Reading(shown, PieceIndex(shown))
