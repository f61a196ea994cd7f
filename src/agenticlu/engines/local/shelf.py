"""Keeps what a model has read of documents on disk, and brings it back in later processes.

The worker's thread decides, a thread of the shelf reads and writes: nobody's reply waits for the
disk. What is kept is the part of the prompts that all questions about a document share, nothing of
a question; see `agenticlu.engines.prefixes` for the folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Message
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.engines.local.kvcache import num_common
from agenticlu.engines.local.stored import (
    DAMAGE,
    FORMAT,
    Exported,
    checksum,
    read_tensors,
    write_tensors,
)
from agenticlu.engines.prefixes import GIB, PrefixFolder, StoredPrefix, hash_ids

LEAST_TOKENS = 512
"""Shorter prefixes are computed anew."""
LOAD_BYTES_PER_S = GIB
LOAD_S = 0.02
"""What bringing a prefix back takes, about: what is computed faster is not stored."""
NEAR_TOKENS = 16
"""A stored prefix that lacks no more of a document is as good as all of it."""
UNTOLD = ("_name_or_path", "transformers_version")
"""Keys of a configuration that change nothing of what a model computes."""


@dataclass(eq=False)
class SharedText:
    """A text that several conversations begin with, and what became of it."""

    text: str
    name: str
    """For people."""
    ids: list[int] = field(default_factory=list)
    """The tokens that these conversations have in common; the worker finds them."""
    read_s: float = 0.0
    """Seconds that computing it took."""
    looked: bool = False
    """Whether it was looked for on disk in vain."""
    stored: bool = False
    """Whether it is on disk."""


def find_shared(
    chat: ChatFormat, messages: Sequence[Message], ids: Sequence[int], text: str
) -> list[int]:
    """Returns the tokens of a prompt up to the end of a text in it; none where it is not there.

    Args:
        chat: Renders and encodes.
        messages: The prompt.
        ids: All its tokens.
        text: The text.
    """
    shown, body = chat.render(messages), chat.disarm(text.strip())
    at = shown.find(body) if body else -1
    if at < 0:
        return []
    # The last token may reach beyond the text, and is then no part of what is shared.
    prefix = chat.encode_text(shown[: at + len(body)])
    return list(ids[: num_common(ids, 0, prefix, 0)])


def hash_model(weights: Iterable[tuple[str, Tensor]], config: Mapping[str, Any], *how: str) -> str:
    """Returns a hash of what decides a model's keys and values.

    Args:
        weights: All of them, by name.
        config: The model's configuration: its rotation, its windows.
        how: What else does: the way it is run, its data type, the device.
    """
    known = {key: value for key, value in config.items() if key not in UNTOLD}
    digest = sha256(json.dumps([FORMAT, _library(), known, *how], default=str).encode())
    for name, tensor in weights:
        digest.update(f"{name} {checksum(tensor)}\n".encode())
    return digest.hexdigest()


def _library() -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version("transformers")
    return ""


class PrefixShelf:
    """Reads and writes the prefixes of one model, in a thread of its own.

    Args:
        folder: Where they are.
        name: Of the model, for people.
        hash_weights: Returns the hash of the model; called once, in the thread.
        say: Told, in a line for people, what could not be kept or brought back.
    """

    def __init__(
        self,
        folder: PrefixFolder,
        name: str,
        hash_weights: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self._name = name
        self._hash_weights = hash_weights
        self._model = ""
        self._told: set[str] = set()
        self._say = say
        self._thread = ThreadPoolExecutor(1, "agenticlu-prefixes")

    def load(
        self,
        shared: SharedText,
        ids: Sequence[int],
        then: Callable[[tuple[StoredPrefix, Exported] | None], None],
    ) -> None:
        """Looks for what is stored of a prompt.

        Args:
            shared: What the prompt begins with; told whether it is stored.
            ids: Of the prompt.
            then: Called in the thread with what was found, or None.
        """

        def work() -> None:
            found = None
            try:
                found = self._load(shared, ids)
            finally:
                then(found)

        self._thread.submit(work)

    def _load(self, shared: SharedText, ids: Sequence[int]) -> tuple[StoredPrefix, Exported] | None:
        if reason := self.folder.refuse():
            self._tell(f"Nothing is kept for later commands: {reason}.")
            return None
        model = self._hash()
        entry = self.folder.find(model, ids)
        if entry is None or entry.tokens < LEAST_TOKENS:
            return None
        try:
            found = read_tensors(entry.path, self._facts(model, ids[: entry.tokens]))
        except FileNotFoundError:  # another process has just dropped it
            return None
        except DAMAGE as error:
            self.discard(entry, error)
            return None
        shared.stored = entry.tokens >= len(shared.ids) - NEAR_TOKENS
        self.folder.note_use(entry.path, shared.name, self._name)
        return entry, found

    def discard(self, entry: StoredPrefix, error: Exception) -> None:
        """Removes a file that does not hold what it should, and says so."""
        entry.remove()
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        self._say(
            f"What was kept of {entry.document or 'a document'} was damaged and is removed "
            f"({reason}); the document is read again."
        )

    def store(self, shared: SharedText, exported: Exported) -> None:
        """Writes a prefix, unless it is there or computing it is as fast as bringing it back."""
        shared.stored = True  # or is not worth it, or cannot be: either way not to be tried again
        shared.looked = False
        load_s = LOAD_S + exported.num_bytes / LOAD_BYTES_PER_S
        if len(shared.ids) >= LEAST_TOKENS and shared.read_s > load_s:
            self._thread.submit(self._store, shared, exported)

    def _store(self, shared: SharedText, exported: Exported) -> None:
        folder = self.folder
        try:
            model = self._hash()
            path = folder.place(model, shared.ids)
            if not folder.refuse() and path.exists():
                return folder.note_use(path, shared.name, self._name)
            is_new = not folder.path.exists()
            with folder.lock():
                unfinished = folder.open_new(path, exported.num_bytes)
                try:
                    with unfinished.open("r+b") as file:
                        write_tensors(file, exported, self._facts(model, shared.ids))
                    unfinished.replace(path)
                finally:
                    unfinished.unlink(missing_ok=True)
                folder.note_use(path, shared.name, self._name)
        except (StoreError, OSError) as error:
            reason = error.message if isinstance(error, StoreError) else f"{error.strerror}."
            self._tell(f"What was read of {shared.name} is not kept for later commands: {reason}")
            return None
        if is_new:
            self._tell(
                f"What the model reads is kept in {folder.path} (at most "
                f"{folder.limit_bytes / GIB:,.3g} GiB), so that later commands need not read it "
                "again. agenticlu cache shows and clears it; --no-prefix-cache keeps nothing."
            )
        return None

    def close(self) -> None:
        """Waits for what is being written."""
        self._thread.shutdown(wait=True)

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._say(line)

    def _hash(self) -> str:
        if not self._model:
            self._model = self._hash_weights()
        return self._model

    def _facts(self, model: str, ids: Sequence[int]) -> dict[str, str]:
        return {"model": model, "ids": hash_ids(ids), "tokens": str(len(ids))}
