"""The documents that are open in the room: taken, read in the background, counted, closed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from agenticlu.core.errors import AgenticluError, DocumentError
from agenticlu.core.limits import ReadingLimits
from agenticlu.core.records import content_id
from agenticlu.core.secrets import public_address
from agenticlu.documents.addresses import fetch
from agenticlu.documents.sources import (
    STANDARD_INPUT,
    find_sources,
    is_address,
    names_one,
    require_file,
)
from agenticlu.room.drawing import Drawer
from agenticlu.room.opened import Counted, OpenDocument, RoomFile
from agenticlu.room.refusals import RoomError
from agenticlu.room.uploads import Upload, lay_out, safe_parts

MOST_DOCUMENTS = 500
READERS = 2
"""Documents that are read or counted at one time."""
PREFIX = "agenticlu-room-"
Made = TypeVar("Made")
Count = Callable[[OpenDocument], Counted]
"""Counts a document's tokens and cuts it into pieces; called in a thread."""


class Library:
    """All open documents, in the order in which they were opened.

    Its methods belong to the server's loop; whatever takes time is done in threads, and by parsers
    in processes of their own.

    Args:
        limits: Of reading.
    """

    def __init__(self, limits: ReadingLimits) -> None:
        self._limits = limits
        self._documents: dict[str, OpenDocument] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(READERS, "read")
        self._openers = ThreadPoolExecutor(READERS, "open")
        """What comes in does not wait for what is being read."""
        self._count: Count | None = None
        self.drawer = Drawer()
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.opening: set[asyncio.Task[None]] = set()
        """Documents that were named and are not listed yet."""

    def __iter__(self) -> Iterator[OpenDocument]:
        return iter(list(self._documents.values()))

    def get(self, id: str) -> OpenDocument:  # noqa: A002
        """Returns a document.

        Raises:
            RoomError: It is not open.
        """
        if id not in self._documents:
            raise RoomError(
                "This document is not open.", status=404, hint="Open its file once more."
            )
        return self._documents[id]

    def is_open(self, id: str) -> bool:  # noqa: A002
        """Whether a document is open."""
        return id in self._documents

    def new_folder(self) -> Path:
        """Makes a folder for one upload."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    # Opening

    async def open_named(self, given: str) -> OpenDocument:
        """Opens what a person named: a file, a folder, a pattern, an address, or '-'.

        Raises:
            DocumentError: There is no such file, or nothing in it to read.
        """
        return self._add(await self._run(functools.partial(self._find, given), self._openers))

    def _find(self, given: str) -> OpenDocument:
        if is_address(given):
            return OpenDocument(content_id(given), public_address(given), False, [], address=given)
        if given == STANDARD_INPUT:
            folder = self.new_folder()
            path = folder / "0"
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            files = [RoomFile.of(path, "standard input")]
            return OpenDocument(identify(files), files[0].name, False, files, folder=folder)
        if names_one(given):
            require_file(given)
            path = Path(given)
            files = [RoomFile.of(path, path.name, given)]
            return OpenDocument(identify(files), path.name, False, files)
        found = find_sources([given], self._limits)
        files = [RoomFile.of(Path(one.address), one.name, one.address) for one in found.found]
        name = Path(given).resolve().name or given
        return OpenDocument(identify(files), name, True, files, passed_over=dict(found.passed_over))

    async def open_upload(self, upload: Upload, folder: Path, name: str | None) -> OpenDocument:
        """Opens what was uploaded: one file, or several as one reading.

        Args:
            upload: The files, in the folder.
            folder: Made by `new_folder`; deleted with the document.
            name: Of a folder; None: of the file.

        Raises:
            DocumentError: There is nothing to read.
        """
        try:
            take = functools.partial(self._take, upload, folder, name)
            return self._add(await self._run(take, self._openers))
        except BaseException:
            self._delete(folder)
            raise

    def _take(self, upload: Upload, folder: Path, name: str | None) -> OpenDocument:
        if len(upload.files) == 1 and name is None:
            given, path = upload.files[0]
            files = [RoomFile.of(path, safe_parts(given)[-1])]
            return OpenDocument(identify(files), files[0].name, False, files, folder=folder)
        below = folder / "files"
        below.mkdir(mode=0o700)
        lay_out(upload, below)
        root = _only_folder(below)
        found = find_sources([str(root)], self._limits)
        files = [
            RoomFile.of(path, path.relative_to(root).as_posix())
            for path in (Path(one.address) for one in found.found)
        ]
        shown = " ".join(safe_parts(name or (root.name if root != below else "")))
        if not name and root == below:
            shown = f"{files[0].name} and {len(files) - 1} more" if files[1:] else files[0].name
        passed_over = dict(found.passed_over)
        return OpenDocument(
            identify(files), shown, True, files, folder=folder, passed_over=passed_over
        )

    def _add(self, document: OpenDocument) -> OpenDocument:
        known = self._documents.get(document.id)
        if known is not None and known.status != "failed":
            if document.folder is not None:
                self._delete(document.folder)
            return known
        if known is None and len(self._documents) >= MOST_DOCUMENTS:
            raise RoomError(
                f"{MOST_DOCUMENTS} documents are open, the most that there may be.",
                status=409,
                hint="Close some of them.",
            )
        if known is not None:
            self.close_document(known.id)
        self._documents[document.id] = document
        self._work[document.id] = asyncio.ensure_future(self._read(document))
        return document

    def close_document(self, id: str) -> None:  # noqa: A002
        """Closes a document, and deletes what was uploaded of it.

        Raises:
            RoomError: It is not open.
        """
        document = self.get(id)
        del self._documents[id]
        self._work.pop(id).cancel()
        self.drawer.forget(document)
        if document.folder is not None:
            self._delete(document.folder)

    # Reading and counting

    async def _read(self, document: OpenDocument) -> None:
        """Reads a document, and then counts it; a failure is told by the document."""
        try:
            if document.address is not None and not document.files:
                document.files = [await self._run(functools.partial(self._fetch, document))]
            looked = asyncio.ensure_future(self._look(document))
            loop = asyncio.get_running_loop()

            def progress(share: float) -> None:
                loop.call_soon_threadsafe(tell, share)

            def tell(share: float) -> None:
                document.progress = max(document.progress, min(share, 0.999))

            read = functools.partial(document.read, self._limits, progress)
            document.took(await self._run(read))
            await looked
        except AgenticluError as error:
            document.status, document.error = "failed", error
        except Exception:
            logging.getLogger(__name__).exception("A fault of the reading room")
            document.status = "failed"
            document.error = DocumentError(
                f"Reading {document.name!r} failed; the terminal says why.",
                hint="Save it anew in the program that made it, or as plain text.",
            )
        await self._count_one(document)

    async def _look(self, document: OpenDocument) -> None:
        """Counts the pages of a PDF, which can be looked at before its text is read."""
        if document.is_folder or not document.files[0].is_pdf:
            return
        with contextlib.suppress(AgenticluError):  # reading says it, too
            await self.drawer.sizes(document, 0)

    def _fetch(self, document: OpenDocument) -> RoomFile:
        assert document.address is not None
        fetched = fetch(document.address, allow_private=self._limits.allow_private)
        document.folder = self.new_folder()
        path = document.folder / "0"
        path.write_bytes(fetched.data)
        return RoomFile.of(path, safe_parts(fetched.file_name)[-1], fetched.address)

    def count_by(self, count: Count) -> None:
        """Counts all documents anew, those opened later as well."""
        self._count = count
        for document in self:
            document.counted = None
            if document.status == "ready":
                self._work[document.id] = asyncio.ensure_future(self._count_one(document))

    async def _count_one(self, document: OpenDocument) -> None:
        """Counts a document for the model in use; without one, or if that fails, it stays bare."""
        with contextlib.suppress(AgenticluError):
            await self.counted(document)

    async def counted(self, document: OpenDocument) -> Counted | None:
        """Returns a document as the model in use is shown it; None without a model.

        Raises:
            AgenticluError: The tokenizer cannot be loaded.
        """
        while document.document is not None and document.counted is None:
            count = self._count
            if count is None:
                return None
            counted = await self._run(functools.partial(count, document))
            if count is self._count:  # else another model was chosen meanwhile
                document.counted = counted
        return document.counted

    async def read_through(self, document: OpenDocument) -> None:
        """Waits until a document is read.

        Raises:
            AgenticluError: It cannot be read, or is closed meanwhile.
        """
        while document.status == "reading":
            self.get(document.id)
            await asyncio.wait([self._work[document.id]], timeout=0.05)
        document.require_text()

    async def close(self) -> None:
        """Closes everything, and deletes the folder of uploads."""
        for task in (*self._work.values(), *self.opening):
            task.cancel()
        for threads in (self._threads, self._openers):
            threads.shutdown(wait=False, cancel_futures=True)
        self.drawer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _delete(self, folder: Path) -> None:
        with contextlib.suppress(RuntimeError):  # the threads have ended: so will the whole folder
            self._openers.submit(shutil.rmtree, folder, ignore_errors=True)

    async def _run(
        self, work: Callable[[], Made], threads: ThreadPoolExecutor | None = None
    ) -> Made:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads or self._threads, work)


def identify(files: Sequence[RoomFile]) -> str:
    """Returns the id of a document: of the bytes and, of several files, of their names.

    Raises:
        DocumentError: A file cannot be read.
    """
    parts = []
    for file in files:
        try:
            with file.path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DocumentError(f"Cannot read {file.name!r}: {error.strerror or error}.") from error
        parts += [file.name if len(files) > 1 else Path(file.name).suffix.lower(), digest]
    return content_id(*parts)


def _only_folder(folder: Path) -> Path:
    """Returns the one folder that all files are in: the name of what was dropped."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _sweep() -> None:
    """Deletes what rooms left behind that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        if not number.isdecimal():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            if path.stat().st_uid == os.getuid() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
