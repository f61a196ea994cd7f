"""What the worker does so that texts which were read stay on disk; see `PrefixShelf`.

The event loop names texts (`share`, `find`); all else is called by the worker's thread, for that
thread alone touches the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from agenticlu.core.errors import EngineError
from agenticlu.core.records import Message
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.engines.local.decoder import AnyDecoder, AnyReading
from agenticlu.engines.local.shelf import LEAST_TOKENS, PrefixShelf, SharedText, find_shared
from agenticlu.engines.local.stored import DAMAGE, Exported
from agenticlu.engines.prefixes import StoredPrefix

REMEMBERED_TEXTS = 64
"""Texts that are known to begin prompts; the latest stay."""


class SharingJob(Protocol):
    """A request, as far as it matters here."""

    asked: tuple[Message, ...] | str
    ids: list[int]
    shared: SharedText | None
    """The text that its prompt begins with, as others do; None where nobody said so."""

    def settle(self, result: Any) -> None:
        """Hands the result, or the error, to whoever waits."""
        ...


@dataclass(eq=False)
class Keeping:
    """Brings texts back from disk before they are read, and notes those that were read.

    Args:
        shelf: Reads and writes.
        decoder: What is in memory.
        chat: Renders and encodes.
    """

    shelf: PrefixShelf
    decoder: AnyDecoder
    chat: ChatFormat
    unstored: list[SharedText] = field(default_factory=list, init=False)
    """What was read and is not on disk."""
    _texts: dict[str, SharedText] = field(default_factory=dict, init=False)
    # By request, and gone with it: one that was given up does not come for it.
    _found: WeakKeyDictionary[Any, tuple[StoredPrefix, Exported]] = field(
        default_factory=WeakKeyDictionary, init=False
    )

    def share(self, text: str, name: str) -> None:
        """Is told what the next prompts have in common; see `HFEngine.share_prefix`."""
        known = self._texts.pop(text, None) or SharedText(text, name)
        known.name = name
        self._texts[text] = known
        if len(self._texts) > REMEMBERED_TEXTS:
            del self._texts[next(iter(self._texts))]

    def find(self, asked: Sequence[Message] | str) -> SharedText | None:
        """Returns the text that a prompt is known to begin with."""
        if isinstance(asked, str):
            return None
        for message in asked[:2]:  # a system turn may come first
            for text, shared in self._texts.items():
                if message.content.startswith(text):
                    return shared
        return None

    def fetch(self, job: SharingJob, submit: Callable[[Any], None]) -> bool:
        """Brings what is on disk of a prompt back into memory.

        Args:
            job: The request, its prompt encoded.
            submit: Hands the request to the worker again.

        Returns:
            Whether the disk is being read: then the request is submitted once that is done.
        """
        shared = job.shared
        if shared is None:
            return False
        if (found := self._found.pop(job, None)) is not None:
            self._restore(shared, job.ids, *found)
            shared.looked = False  # it may be pushed out of memory, and is then looked for
            return False
        if not shared.ids and isinstance(job.asked, tuple):
            shared.ids = find_shared(self.chat, job.asked, job.ids, shared.text)
            self.decoder.expect(shared.ids)
        if self.decoder.num_uncached(job.ids) < LEAST_TOKENS:
            return False
        if shared.looked or len(shared.ids) < LEAST_TOKENS:
            return False
        shared.looked = True

        def back(found: tuple[StoredPrefix, Exported] | None) -> None:
            if found is not None:
                self._found[job] = found
            try:
                submit(job)
            except EngineError as error:
                job.settle(error)

        self.shelf.load(shared, list(job.ids), back)
        return True

    def _restore(
        self, shared: SharedText, ids: Sequence[int], entry: StoredPrefix, exported: Exported
    ) -> None:
        try:
            self.decoder.restore(ids[: entry.tokens], exported)
        except DAMAGE as error:
            shared.stored = False
            self.shelf.discard(entry, error)

    def note(
        self, jobs: Sequence[SharingJob], readings: Sequence[AnyReading], seconds: float
    ) -> None:
        """Notes what was read.

        Args:
            jobs: Requests whose prompts were read together.
            readings: What became of each.
            seconds: That this took.
        """
        for job, reading in zip(jobs, readings, strict=True):
            shared = job.shared
            if shared is None or shared.stored or not shared.ids:
                continue
            if reading.num_cached < len(shared.ids):
                shared.read_s += seconds
            if shared not in self.unstored:
                self.unstored.append(shared)

    def store(self) -> None:
        """Hands what was read to the shelf, as far as it is still in memory."""
        for shared in self.unstored:
            if (exported := self.decoder.export(shared.ids)) is not None:
                self.shelf.store(shared, exported)
        self.unstored.clear()

    def close(self) -> None:
        """Waits for what is being written."""
        self.shelf.close()
