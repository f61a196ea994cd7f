"""The desk where the documents of clients are read and asked: each is parsed once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agenticlu.core.limits import ReadingLimits
from agenticlu.core.records import NO_PRICES, Document, Piece, Prices
from agenticlu.dialogue.answer import Answer, Event, make_question
from agenticlu.dialogue.ask import ask
from agenticlu.dialogue.run import PieceIndex, ShownDocument, control_tokens
from agenticlu.dialogue.steps import Profile
from agenticlu.dialogue.stopping import StopRule
from agenticlu.documents import split
from agenticlu.documents.loading import join_documents, name_several, read_document
from agenticlu.documents.sources import Source
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import Engine
from agenticlu.server.uploads import FileStore, clean_name

KEPT_DOCUMENTS = 64
KEPT_READINGS = 16
KEPT_CHARACTERS = 64 << 20
"""Of the documents that are kept; beyond it the one that was asked longest ago is parsed anew."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class GivenFile:
    """A file that is to be read: uploaded before, or its bytes."""

    param: str
    """Where in the request it stands."""
    name: str = ""
    """Of one whose bytes are here."""
    data: bytes | None = field(default=None, repr=False)
    file_id: str | None = None
    """Of one that was uploaded."""


@dataclass(frozen=True)
class Reading:
    """One or several documents, ready to be asked."""

    document: Document
    pieces: tuple[Piece, ...]
    index: PieceIndex
    names: tuple[str, ...]
    documents: tuple[Document, ...]
    """Those that it was made of, in their order."""
    file_ids: tuple[str, ...]
    """Their ids; of one that was sent with the request, its name."""


class Shelf(Generic[Value]):
    """Keeps what was made, the most recently used; of several callers one makes it.

    Args:
        most: Values that are kept.
        size: Of a value.
        room: Of all together.
    """

    def __init__(
        self, most: int, size: Callable[[Value], int] = lambda _: 0, room: int = 0
    ) -> None:
        self._most, self._size, self._room = most, size, room
        self._made: OrderedDict[Hashable, Value] = OrderedDict()
        self._under_way: dict[Hashable, asyncio.Task[Value]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Value]]) -> Value:
        """Returns the value of a key, made where it is not kept."""
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.ensure_future(self._keep(key, make))
            self._under_way[key] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A client that goes away does not take the work from another that waits for it, too.
        return await asyncio.shield(task)

    async def _keep(self, key: Hashable, make: Callable[[], Awaitable[Value]]) -> Value:
        try:
            value = await make()
        finally:
            del self._under_way[key]
        self._made[key] = value
        total = sum(map(self._size, self._made.values()))
        while len(self._made) > self._most or (total > self._room > 0 and len(self._made) > 1):
            _, gone = self._made.popitem(last=False)
            total -= self._size(gone)
        return value


class Desk:
    """Reads documents and asks them.

    Args:
        tokenizer: Of the model.
        profile: Wordings.
        piece_tokens: Most tokens of a piece.
        files: Uploaded by clients.
        limits: Of readings of several.
        sources: Whether the texts of answers name their sources, where requests do not say.
        rule: Says when a further round is worth it.
        prices: Of tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        profile: Profile,
        piece_tokens: int,
        files: FileStore,
        limits: ReadingLimits | None = None,
        *,
        sources: bool = False,
        rule: StopRule | None = None,
        prices: Prices = NO_PRICES,
    ) -> None:
        self.files = files
        self.sources = sources
        self.profile = profile
        self._rule, self._prices = rule, prices
        self._tokenizer, self._piece_tokens = tokenizer, piece_tokens
        self._limits = limits or ReadingLimits()
        self._documents: Shelf[Document] = Shelf(
            KEPT_DOCUMENTS, lambda document: len(document.text), KEPT_CHARACTERS
        )
        self._readings: Shelf[Reading] = Shelf(
            KEPT_READINGS, lambda reading: len(reading.document.text), KEPT_CHARACTERS
        )
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="agenticlu-read")

    async def read(self, given: Sequence[GivenFile], before: Reading | None = None) -> Reading:
        """Reads files as one document.

        Args:
            given: The files.
            before: A reading that they are added to.

        Raises:
            RequestError: A file is not there.
            DocumentError: One cannot be read, or they are too many or too long together.
        """
        if before is not None and not given:
            return before
        names = list(before.names) if before else []
        documents = list(before.documents) if before else []
        file_ids = list(before.file_ids) if before else []
        self._limits.check(num_files=len(names) + len(given))
        for one in given:
            name, document = await self._parse(one)
            if document.id in [known.id for known in documents]:
                continue  # the same again, as chat clients send it with every message
            documents.append(document)
            names.append(_unlike(name, names))
            file_ids.append(one.file_id or names[-1])
            self._limits.check(num_bytes=sum(len(known.text) for known in documents))
        key = (*((document.id, name) for document, name in zip(documents, names, strict=True)),)
        made = await self._readings.get(key, lambda: self._prepare(documents, names, file_ids))
        if list(made.file_ids) == file_ids:
            return made
        return Reading(
            made.document, made.pieces, made.index, made.names, made.documents, tuple(file_ids)
        )

    async def ask(
        self,
        reading: Reading,
        question: str,
        engine: Engine,
        *,
        options: Sequence[str] = (),
        rounds: int = 1,
        spans: bool = True,
        temperature: float = 0.0,
        earlier: Sequence[tuple[str, str]] = (),
        on_event: Callable[[Event], None] | None = None,
    ) -> Answer:
        """Asks a reading; see `agenticlu.dialogue.ask`."""
        return await ask(
            reading.document,
            make_question(reading.document, question, options),
            engine,
            tokenizer=self._tokenizer,
            profile=self.profile,
            rounds=rounds,
            spans=spans,
            temperature=temperature,
            pieces=reading.pieces,
            index=reading.index,
            earlier=earlier,
            rule=self._rule,
            prices=self._prices,
            on_event=on_event,
        )

    def close(self) -> None:
        """Ends the threads, and deletes files that are not to stay."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.files.close()

    async def _parse(self, given: GivenFile) -> tuple[str, Document]:
        """Returns a file's name and text."""
        loop = asyncio.get_running_loop()
        if given.data is not None:
            name, data = clean_name(given.name), given.data
            found = await loop.run_in_executor(self._threads, hashlib.sha256, data)
            digest = found.hexdigest()
        else:
            assert given.file_id is not None
            file = self.files.get(given.file_id, given.param)
            name, digest = file.filename, file.sha256

        def read() -> Document:
            content = given.data
            if content is None:
                content = self.files.read(str(given.file_id), given.param)
            return read_document(content, name)

        document = await self._documents.get(
            (digest, name), lambda: loop.run_in_executor(self._threads, read)
        )
        return name, document

    async def _prepare(
        self, documents: Sequence[Document], names: Sequence[str], file_ids: Sequence[str]
    ) -> Reading:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, self._join, documents, names, tuple(file_ids)
        )

    def _join(
        self, documents: Sequence[Document], names: Sequence[str], file_ids: tuple[str, ...]
    ) -> Reading:
        if len(documents) == 1:
            document = documents[0]
        else:
            named = [(Source(name, name), one) for name, one in zip(names, documents, strict=True)]
            document = join_documents(named, name_several(names))
        pieces = split(document, self._tokenizer, self._piece_tokens)
        shown = ShownDocument(document, pieces, control_tokens(self._tokenizer))
        return Reading(
            document, pieces, PieceIndex(shown), tuple(names), tuple(documents), file_ids
        )


def _unlike(name: str, others: Sequence[str]) -> str:
    """Returns a name that no other has.

    >>> _unlike("a.txt", ["A.txt"])
    'a.txt (2)'
    """
    known = {other.casefold() for other in others}
    number, found = 1, name
    while found.casefold() in known:
        number += 1
        found = f"{name} ({number})"
    return found
