"""Seals a run again and again while it works, and takes up what its shard sealed elsewhere.

What a machine loses when it dies is what was finished since the last segment. Each segment holds
the documents about which something was finished since the one before, whole, so that no segment is
ever changed and their union is the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.search.run import Shard
from agenticlu.search.shards.merge import SegmentPart, merge_parts
from agenticlu.search.shards.segments import Manifest, SharedFolder, write_segment
from agenticlu.search.store import Store

DEFAULT_EVERY_S = 600.0
WHOLE = Shard(0, 1)
_LABEL = re.compile(r"(\d+)/(\d+)")


class Sealer:
    """Seals one shard of a search.

    Args:
        run: Folder of the run.
        target: Folder or URL where the segments of all shards are gathered.
        shard: Share of the documents that the run works on; None for all.
        say: Told when a segment cannot be written for now.

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
        self._sealing = threading.Lock()
        self._taken_up = False
        self._sealed: dict[str, tuple[Any, ...]] = {}
        """Document to its figures as of the last segment; see `Store.progress_by_document`."""
        self._shared: set[str] = set()
        """Sealed rows that are about no document: judges' calls and judgements."""

    @property
    def label(self) -> str:
        """Whose work the segments are."""
        return f"{self._shard.index}/{self._shard.count}"

    def take_up(self, store: Store) -> int:
        """Merges what was sealed of this shard into a run before it goes on.

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
        parts = [SegmentPart(self._folder, one) for one in found]
        merge_parts(store, parts, self._shard.holds, into_running=True)
        self._taken_up = True
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
            now = store.progress_by_document()
            changed = {name for name, figures in now.items() if self._sealed.get(name) != figures}
            fresh: set[str] = set()

            def is_new(table: str, row: tuple[Any, ...]) -> bool:
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
        """Seals what is left, however the run ended; an exit of a context.

        Raises:
            StoreError: The target cannot be written, and nothing else went wrong.
        """
        if not self._taken_up:
            return
        try:
            self.seal()
        except StoreError as failure:
            failure.hint = (
                f"The run itself is whole in {self._run}; the same command seals it again."
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
    """Returns what tells a row from others of its table, and from itself in another state."""
    return f"{row[0][:16]}{row[5][0]}" if table == "call" else row[0][:16]
