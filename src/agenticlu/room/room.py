"""The reading room: its documents, models, questions and history, together."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.core.errors import AgenticluError
from agenticlu.core.limits import MEBIBYTE, ReadingLimits
from agenticlu.core.loops import LoopThread
from agenticlu.engines import BUNDLED_NAME, ModelChoice
from agenticlu.room.asking import AskedWith, Asker
from agenticlu.room.export import (
    PageImage,
    PageKey,
    cited_pages,
    export_html,
    export_json,
    export_markdown,
)
from agenticlu.room.history import History
from agenticlu.room.library import Library
from agenticlu.room.models import Models, RoomModel
from agenticlu.room.refusals import RoomError, tell
from agenticlu.room.tour import TOUR_NAME, TOUR_QUESTIONS, write_tour
from agenticlu.room.uploads import Upload

SETTLE_S = 10.0
"""Most seconds for which the first look at the room waits for documents that were named."""
FORMATS = (
    *(".pdf", ".docx", ".pptx", ".xlsx", ".xls", ".odt", ".odp", ".ods", ".rtf", ".epub"),
    *(".html", ".htm", ".md", ".txt", ".csv", ".tsv", ".eml", ".mbox", ".ipynb", ".json"),
)
"""Endings of documents that a file chooser offers; any text is read."""
MOST_PAGES = 40
"""Pictures of pages in an exported file; further pages are named."""
EXPORT_SCALE = 1.5
TYPES = {"html": "text/html", "md": "text/markdown", "json": "application/json"}


@dataclass(frozen=True)
class RoomSettings:
    """How the room reads and asks."""

    asked: AskedWith
    choice: ModelChoice = field(default_factory=ModelChoice)
    tokenizer: str | None = None
    piece_tokens: int | None = None
    stop_rule: str | None = None
    reading: ReadingLimits = field(default_factory=ReadingLimits)
    upload_bytes: int = 200 * MEBIBYTE
    history: Path | None = None
    """File of the history; None keeps it in memory, for as long as the room is open."""


class Room:
    """All that the routes work with; made in the server's loop.

    Args:
        settings: How it reads and asks.
        say: Told what people at the terminal should know.
        model: Answers, instead of the settings' choice.
    """

    formats: Sequence[str] = FORMATS

    def __init__(
        self,
        settings: RoomSettings,
        say: Callable[[str], None] = lambda text: None,
        model: RoomModel | None = None,
    ) -> None:
        self.settings, self._say = settings, say
        self.loop = LoopThread()
        self.history = History(settings.history, say=say)
        self.library = Library(settings.reading)
        self.models = Models(
            settings.choice,
            settings.tokenizer,
            settings.piece_tokens,
            self.loop,
            model,
            settings.stop_rule,
        )
        self.asker = Asker(self.library, self.models, self.loop, self.history, settings.asked)
        self.unopened: list[dict[str, Any]] = []
        """What was named at the start and could not be opened, and why."""
        self._tasks: set[asyncio.Task[None]] = set()
        if self.models.current is not None:
            self._use(self.models.current)

    def open(self, named: Sequence[str]) -> None:
        """Opens documents that were named on the command line."""
        task = asyncio.ensure_future(self._open(named))
        self.library.opening.add(task)
        task.add_done_callback(self.library.opening.discard)

    async def _open(self, named: Sequence[str]) -> None:
        for one in named:
            try:
                await self.library.open_named(one)
            except AgenticluError as error:
                self._say(f"Not opened: {error.advice}")
                self.unopened.append({"name": one, "error": tell(error)})

    async def settle(self) -> None:
        """Waits until what was named is listed."""
        if self.library.opening:
            await asyncio.wait(list(self.library.opening), timeout=SETTLE_S)

    def _use(self, model: RoomModel) -> None:
        """Counts all documents for a model, once its window is known."""
        task = asyncio.ensure_future(self._count_by(model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _count_by(self, model: RoomModel) -> None:
        self.library.count_by(model.count)
        with contextlib.suppress(AgenticluError):  # asking will say it
            if await self._meet(model) and model is self.models.current:
                self.library.count_by(model.count)

    async def _meet(self, model: RoomModel) -> bool:
        return await asyncio.wrap_future(self.loop.submit(self.models.meet(model)))

    async def choose(self, name: str, base_url: str | None) -> RoomModel:
        """Chooses another model; what is under way ends with the old one.

        Raises:
            AgenticluError: There is no such model, or no such server.
        """
        model = await asyncio.to_thread(self.models.find, name, base_url)
        await self._meet(model)
        if model is not self.models.current:
            self.models.use(model)
            self._use(model)
        return model

    async def find_entry(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Returns an entry of the history.

        Raises:
            RoomError: There is none of that id.
        """
        found = await asyncio.to_thread(self.history.get, id)
        if found is None:
            raise RoomError("The history has no such entry.", status=404)
        return found

    async def export(
        self, entry: str | None, conversation: str | None, form: str
    ) -> tuple[str, str, str]:
        """Returns name, type and content of a file with answered questions.

        Raises:
            RoomError: There are none, or the form is unknown.
        """
        if form not in TYPES:
            raise RoomError(f"Unknown format {form!r}. Allowed: {', '.join(TYPES)}.")
        if conversation:
            entries = await asyncio.to_thread(self.history.conversation, conversation)
        elif entry:
            entries = [await self.find_entry(entry)]
        else:
            raise RoomError("Name what is exported: ?entry=ID or ?conversation=ID.")
        if not entries:
            raise RoomError("The history has no such conversation.", status=404)
        name = re.sub(r"[^\w.-]+", "-", entries[0]["document_name"], flags=re.ASCII).strip("-.")
        content = await self._render(entries, form)
        return f"{name[:80] or 'answers'}.{form}", f"{TYPES[form]}; charset=utf-8", content

    async def _render(self, entries: list[dict[str, Any]], form: str) -> str:
        if form == "json":
            return await asyncio.to_thread(export_json, entries)
        if form == "md":
            return await asyncio.to_thread(export_markdown, entries)
        images = {key: await self._picture(key) for key in cited_pages(entries)[:MOST_PAGES]}
        shown = {key: image for key, image in images.items() if image is not None}
        return await asyncio.to_thread(export_html, entries, shown)

    async def _picture(self, key: PageKey) -> PageImage | None:
        """Returns the picture of a page of an open document; None where there is none."""
        if not self.library.is_open(key.document):
            return None
        document, drawer = self.library.get(key.document), self.library.drawer
        try:
            width, height = (await drawer.sizes(document, key.part))[key.page - 1]
            png = await drawer.draw(document, key.part, key.page, EXPORT_SCALE)
        except (AgenticluError, IndexError):
            return None
        return PageImage(png, width, height)

    async def begin_tour(self) -> dict[str, Any]:
        """Opens the bundled document with the bundled model; returns it with questions.

        Raises:
            MissingDependencyError: The bundled model needs PyTorch.
        """
        await self.choose(BUNDLED_NAME, None)
        text = await asyncio.to_thread(write_tour)
        folder = self.library.new_folder()
        path = folder / "0"
        path.write_text(text, encoding="utf-8")
        document = await self.library.open_upload(Upload([(TOUR_NAME, path)]), folder, None)
        return {"document": document.info(), "questions": list(TOUR_QUESTIONS)}

    async def close(self) -> None:
        """Ends what is under way and closes everything."""
        for task in self._tasks:
            task.cancel()
        await self.library.close()
        await asyncio.wrap_future(self.loop.submit(self.models.close()))
        self.loop.close()
        self.history.close()
