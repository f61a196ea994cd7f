"""Pictures of PDF pages, drawn in child processes that keep the files; the last ones are kept."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from agenticlu.documents.confined import Held
from agenticlu.room.opened import OpenDocument, RoomFile, read_bytes
from agenticlu.room.refusals import RoomError

CACHE_BYTES = 64 << 20
"""Of pictures that are kept."""
MOST_CHILDREN = 4
"""PDFs whose bytes a child keeps at one time."""
SCALES = (0.5, 4.0)
"""Least and most pixels of a point."""
_MODULE = "agenticlu.documents.formats.pdf_shown"
Made = TypeVar("Made")
Key = tuple[str, int]
"""A document's id, and the number of its file."""


@dataclass(eq=False)
class _Shown:
    """A PDF that a child keeps."""

    held: Held
    name: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One page at a time: who has gone meanwhile is passed over."""


class Drawer:
    """Draws pages."""

    def __init__(self) -> None:
        self._shown: OrderedDict[Key, _Shown] = OrderedDict()
        self._sizes: dict[Key, list[tuple[float, float]]] = {}
        self._pictures: OrderedDict[tuple[Key, int, float], bytes] = OrderedDict()
        self._num_bytes = 0
        # Not the loop's own threads: a page that takes long must not keep others waiting.
        self._threads = ThreadPoolExecutor(MOST_CHILDREN, "draw")
        self._spare = Held()
        self._prepare()

    async def sizes(self, document: OpenDocument, number: int) -> list[tuple[float, float]]:
        """Returns width and height of each page in points.

        Raises:
            DocumentError: The file is encrypted or broken.
        """
        key = (document.id, number)
        if key not in self._sizes:
            shown = self._show(key, document.file(number))
            call = functools.partial(
                shown.held.call,
                f"{_MODULE}:measure_pages",
                shown.name,
                into=list[tuple[float, float]],
            )
            async with shown.turn:
                if key not in self._sizes:
                    self._sizes[key] = await self._run(call)
            document.num_pages[number] = len(self._sizes[key])
        return self._sizes[key]

    async def draw(
        self,
        document: OpenDocument,
        number: int,
        page: int,
        scale: float,
        is_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> bytes:
        """Returns a page as PNG.

        Args:
            document: That it is of.
            number: Of the file.
            page: Number, from 1.
            scale: Pixels of a point.
            is_gone: Tells whether nobody waits for it any more.

        Raises:
            RoomError: There is no such page, or nobody waits for it.
            DocumentError: It is broken.
        """
        key = (document.id, number)
        if not 1 <= page <= len(await self.sizes(document, number)):
            raise RoomError(f"{document.file(number).name!r} has no page {page}.", status=404)
        picture = (key, page, scale)
        if picture not in self._pictures:
            shown = self._show(key, document.file(number))
            async with shown.turn:
                if picture not in self._pictures:
                    if is_gone is not None and await is_gone():
                        raise RoomError("Nobody waits for the page.", status=499)
                    call = functools.partial(
                        shown.held.call,
                        f"{_MODULE}:draw_page",
                        shown.name,
                        page - 1,
                        scale,
                        into=bytes,
                    )
                    self._keep(picture, await self._run(call))
        self._pictures.move_to_end(picture)
        return self._pictures[picture]

    def forget(self, document: OpenDocument) -> None:
        """Drops all of a document."""
        for key in [key for key in self._shown if key[0] == document.id]:
            self._close(self._shown.pop(key))
        for key in [key for key in self._sizes if key[0] == document.id]:
            del self._sizes[key]
        for picture in [one for one in self._pictures if one[0][0] == document.id]:
            self._num_bytes -= len(self._pictures.pop(picture))

    def close(self) -> None:
        """Ends all children."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for held in (self._spare, *(shown.held for shown in self._shown.values())):
            held.close()

    def _show(self, key: Key, file: RoomFile) -> _Shown:
        if not file.is_pdf:
            raise RoomError(f"{file.name!r} has no pages to draw: it is no PDF.", status=404)
        if key not in self._shown:
            held, self._spare = self._spare, Held()
            held.take(functools.partial(read_bytes, file), f"PDF {file.name!r}")
            self._shown[key] = _Shown(held, file.name)
            self._prepare()
        self._shown.move_to_end(key)
        while len(self._shown) > MOST_CHILDREN:
            self._close(self._shown.popitem(last=False)[1])
        return self._shown[key]

    def _prepare(self) -> None:
        """Starts a child for the next PDF: its first page is not to wait for that."""
        self._threads.submit(self._spare.prepare, _MODULE)

    def _close(self, shown: _Shown) -> None:
        self._threads.submit(shown.held.close)  # it waits for a page that is being drawn

    def _keep(self, picture: tuple[Key, int, float], data: bytes) -> None:
        self._pictures[picture] = data
        self._num_bytes += len(data)
        while self._num_bytes > CACHE_BYTES and len(self._pictures) > 1:
            self._num_bytes -= len(self._pictures.popitem(last=False)[1])

    async def _run(self, call: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
