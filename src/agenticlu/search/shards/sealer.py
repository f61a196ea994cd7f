"""Seals a run into segments while it works, and resumes from those its shard sealed elsewhere.

A machine that dies loses what was finished since the last segment. Each segment holds the documents
about which something was finished since the one before, whole, so that no segment is ever changed
and their union is the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import content_id
from agenticlu.search.run import Shard
from agenticlu.search.shards import (
    SETTINGS,
    IsNew,
    Manifest,
    SharedFolder,
    encode_line,
    load_package,
    run_lines,
)
from agenticlu.search.shards.merge import merge_parts, segment_part
from agenticlu.search.store import Store

WHOLE = Shard(0, 1)
_LABEL = re.compile(r"(\d+)/(\d+)")


def seal_run(
    run: str | Path,
    target: str,
    *,
    label: str | None = None,
    settings: str | None = None,
    finished: bool = False,
) -> str:
    """Writes everything that a run finished to a folder or URL as one segment.

    Args:
        run: Folder of the run; a process may still be writing to it.
        target: Where segments are gathered.
        label: See `Manifest`.
        settings: See `Manifest`; None takes the run's own.
        finished: See `Manifest`.

    Returns:
        The segment's address.

    Raises:
        StoreError: The target cannot be written, or the run is damaged.
    """
    folder = SharedFolder(target)
    with Store(run, writable=False) as store, store.snapshot():
        return write_segment(folder, store, label=label, settings=settings, finished=finished)


def write_segment(
    folder: SharedFolder,
    store: Store,
    *,
    label: str | None,
    settings: str | None = None,
    finished: bool = False,
    documents: Collection[str] | None = None,
    is_new: IsNew = lambda table, row: True,
) -> str:
    """Writes rows of a store as one segment and returns its address.

    Args:
        folder: Where to.
        store: A run, within `Store.snapshot`.
        label: See `Manifest`.
        settings: See `Manifest`; None takes the run's own.
        finished: See `Manifest`.
        documents: Only what is about these; None for all.
        is_new: Which of those rows.
    """
    zstandard = load_package("zstandard")
    rows = 0
    with tempfile.TemporaryFile(dir=store.folder) as data:
        compressor = zstandard.ZstdCompressor(level=6, write_content_size=False)
        with compressor.stream_writer(data, closefd=False) as stream:
            for line in run_lines(store, documents, is_new):
                stream.write(encode_line(line))
                rows += 1
        size = data.tell()
        data.seek(0)
        manifest = Manifest(
            rows=rows,
            bytes=size,
            sha256=hashlib.file_digest(data, "sha256").hexdigest(),
            label=label,
            settings=settings or hash_settings(store),
            finished=finished,
            sealed_s=time.time(),
            progress=count_progress(store),
        )
        data.seek(0)
        return folder.write(data, manifest)


def hash_settings(store: Store) -> str:
    """Returns a hash of the settings that trees follow from.

    Those in 'bound' are left out: they never change in a run, and are not complete before its
    engine first answers.
    """
    chosen = [store.get(name) for name in SETTINGS if name != "bound"]
    return content_id("settings", json.dumps(chosen, sort_keys=True))


def count_progress(store: Store) -> dict[str, Any]:
    """Returns the progress of a run, as JSON data."""
    return {
        **store.tree_counts(),
        "outcomes": store.outcomes(),
        "calls": store.call_counts(),
        "usage": {phase: usage.as_dict() for phase, usage in store.usage_by_phase().items()},
        "cut": {phase: usage.as_dict() for phase, usage in store.cut_by_phase().items()},
        "failures": store.failures(),
    }


class Sealer:
    """Seals one shard of a search.

    Args:
        run: Folder of the run.
        target: Folder or URL where the segments of all shards are gathered.
        shard: Share of the documents that the run works on; None for all.
        say: Receives a message when a segment cannot be written for now.

    Raises:
        StoreError: The target cannot be written.
    """

    def __init__(
        self,
        run: str | Path,
        target: str,
        shard: Shard | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.say = say or (lambda text: None)
        self._run = Path(run)
        self._shard = shard or WHOLE
        self._folder = SharedFolder(target)
        self._folder.check()
        self._sealing = threading.Lock()  # the background's seal may still run when `end` seals
        self._taken_up = False
        self._sealed: dict[str, tuple[Any, ...]] = {}
        """Document to its figures as of the last segment; see `Store.progress_by_document`."""
        self._shared: set[str] = set()
        """Sealed rows that are about no document: judges' calls and judgements."""

    @property
    def label(self) -> str:
        """The label of this shard's segments."""
        return f"{self._shard.index}/{self._shard.count}"

    def take_up(self, store: Store) -> int:
        """Merges what was sealed of this shard into a run before it continues.

        Shards of another count may hold documents of this one, and are looked through.

        Args:
            store: The run, open for writing.

        Returns:
            The number of segments.

        Raises:
            StoreError: A segment is damaged, or was made under settings that this run cannot have.
        """
        found = [one for one in self._folder.manifests(may_miss=True) if self._may_hold(one)]
        is_fresh = not store.progress_by_document()
        parts = [segment_part(self._folder, one) for one in found]
        merge_parts(store, parts, self._shard.holds, into_running=True)
        self._taken_up = True
        # Of a fresh run, what it now holds came from segments and need not be sealed again. What an
        # older run held before may never have been sealed: it is sealed whole, once.
        if is_fresh:
            self._sealed = store.progress_by_document()
            for table in ("call", "judgement"):
                documents = {""} if table == "call" else None
                self._shared |= {_mark(table, row) for row in store.rows(table, documents)}
        return len(found)

    def seal(self) -> str | None:
        """Writes what was finished since the last segment; returns its address, if there is one.

        Raises:
            StoreError: The target cannot be written now.
        """
        with self._sealing, Store(self._run, writable=False) as store, store.snapshot():
            # In the snapshot of the rows: what is finished from here on shows as changed next time.
            now = store.progress_by_document()
            changed = {name for name, figures in now.items() if self._sealed.get(name) != figures}
            fresh: set[str] = set()

            def is_new(table: str, row: tuple[Any, ...]) -> bool:
                # Rows about a changed document are written with it, all of them; those about none,
                # once.
                if table != "judgement" and not (table == "call" and row[2] == ""):
                    return True
                mark = _mark(table, row)
                fresh.add(mark)
                return mark not in self._shared

            if not changed:
                return None
            counts = store.tree_counts()
            address = write_segment(
                self._folder,
                store,
                label=self.label,
                finished=counts["done"] == counts["questions"],
                documents=changed,
                is_new=is_new,
            )
            # Only now: what could not be written is part of the next segment.
            self._sealed = now
            self._shared |= fresh
            return address

    @contextlib.asynccontextmanager
    async def every(self, seconds: float) -> AsyncIterator[None]:
        """Seals in the background while what is inside works."""
        task = asyncio.create_task(self._keep_sealing(seconds))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Seals what is left, however the run ended; the exit of a context.

        Without `take_up` nothing is sealed: the run failed before it began, and its folder may be
        another's.

        Raises:
            StoreError: The target cannot be written, and nothing else went wrong.
        """
        if not self._taken_up:
            return
        try:
            self.seal()
        except StoreError as failure:
            failure.hint = (
                f"The run itself is complete in {self._run}; the same command seals it again."
            )
            if error is None:
                raise
            self.say(f"{failure.message} {failure.hint}")

    async def _keep_sealing(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self.seal)
            except StoreError as error:
                self.say(f"not sealed for now: {error.message}")

    def _may_hold(self, manifest: Manifest) -> bool:
        label = _LABEL.fullmatch(manifest.label or "")
        if label is None:
            return True
        index, count = int(label[1]), int(label[2])
        return count != self._shard.count or index == self._shard.index


def _mark(table: str, row: tuple[Any, ...]) -> str:
    """Returns an id of a row and its state, short because all of them are kept in memory."""
    # With the state: a failed call that was repeated has to be sealed again.
    return f"{row[0][:16]}{row[5][0]}" if table == "call" else row[0][:16]
