"""The folder in which models of this process keep what they have read of documents.

One safetensors file for a document's prefix and a model, named
`MODEL-TOKENS-IDS.safetensors`: a hash of the model, the number of tokens, a hash of their ids. A
small JSON file beside it has the names that people know. The least recently used file goes first.

What stands in the folder can be turned back into the documents, and decides what models answer. So
the folder must be the user's own and nobody else may write to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.files import write_atomically
from agenticlu.core.limits import PrefixLimits

GIB = 1 << 30
SPARE_BYTES = GIB
"""Room that is left on the disk."""
LEFTOVER_S = 3600.0
"""Age at which an unfinished file is taken for that of a process that was killed."""
LOCK_S = 10.0
"""Patience with another process that writes to the folder."""
_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{1,9})-([0-9a-f]{32})\.safetensors")


def default_prefix_folder(environ: Mapping[str, str]) -> Path | None:
    """Returns the user's own folder, or None where there is no home folder.

    >>> str(default_prefix_folder({"XDG_CACHE_HOME": "/c"}))
    '/c/agenticlu/prefixes'
    """
    if (base := Path(environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        return base / "agenticlu" / "prefixes"
    if not (home := Path(environ.get("HOME", ""))).is_absolute():
        return None
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return home / caches / "agenticlu" / "prefixes"


def open_prefix_folder(limits: PrefixLimits | None) -> PrefixFolder | None:
    """Returns the folder that the settings name, or None where nothing is to be kept."""
    if limits is None or limits.gib <= 0 or limits.memory_gib <= 0:
        return None
    named = None if limits.folder is None else Path(limits.folder).expanduser()
    path = named or default_prefix_folder(os.environ)
    return None if path is None else PrefixFolder(path, int(limits.gib * GIB))


def hash_ids(ids: Sequence[int]) -> str:
    """Returns a hash of token ids."""
    return hashlib.sha256(array("q", ids).tobytes()).hexdigest()


@dataclass(frozen=True)
class StoredPrefix:
    """One file of the folder."""

    path: Path
    document: str
    """Name of the document, as it was asked last; empty where that is not known."""
    model: str
    """Name of the model; empty where that is not known."""
    tokens: int
    bytes: int
    last_used: float
    """Seconds since 1970."""

    @property
    def details(self) -> Path:
        """File of the names."""
        return self.path.with_suffix(".json")

    def remove(self) -> None:
        """Removes it; what is gone already is no error."""
        for path in (self.path, self.details):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class PrefixFolder:
    """Finds, lists and drops stored prefixes; what is in them is no concern of it.

    Args:
        path: The folder; made when something is first stored.
        limit_bytes: Of all files together.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes

    def refuse(self) -> str:
        """Returns why the folder is not to be used; empty where it is fit, or not there yet."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self.path} cannot be read ({error.strerror})"
        if not stat.S_ISDIR(found.st_mode):
            return f"{self.path} is no folder"
        if found.st_uid != os.getuid():
            return f"{self.path} belongs to another user"
        if found.st_mode & 0o022:
            return f"others may write to {self.path} (chmod 700 forbids it)"
        return ""

    def entries(self) -> list[StoredPrefix]:
        """Returns what is stored, the last used first."""
        try:
            names = sorted(os.listdir(self.path))
        except OSError:
            return []
        found = [one for name in names if (one := self._read_entry(name)) is not None]
        return sorted(found, key=lambda one: -one.last_used)

    def _read_entry(self, name: str) -> StoredPrefix | None:
        parts = _NAME.fullmatch(name)
        path = self.path / name
        try:
            facts = path.lstat()
        except OSError:  # gone just now
            return None
        if parts is None or not stat.S_ISREG(facts.st_mode):
            return None
        said = _load_details(path.with_suffix(".json"))
        return StoredPrefix(
            path=path,
            document=str(said.get("document", "")),
            model=str(said.get("model", "")),
            tokens=int(parts[2]),
            bytes=facts.st_size,
            last_used=facts.st_mtime,
        )

    def find(self, model: str, ids: Sequence[int]) -> StoredPrefix | None:
        """Returns the longest stored prefix of a prompt.

        Args:
            model: Hash of the model.
            ids: Of the prompt.
        """
        if self.refuse():
            return None
        best: StoredPrefix | None = None
        for entry in self.entries():
            parts = _NAME.fullmatch(entry.path.name)
            assert parts is not None
            shorter = best is not None and entry.tokens <= best.tokens
            if parts[1] != model[:16] or not 0 < entry.tokens <= len(ids) or shorter:
                continue
            if hash_ids(ids[: entry.tokens])[:32] == parts[3]:
                best = entry
        return best

    def place(self, model: str, ids: Sequence[int]) -> Path:
        """Returns the file for a prefix."""
        name = f"{model[:16]}-{len(ids)}-{hash_ids(ids)[:32]}.safetensors"
        return self.path / name

    def note_use(self, path: Path, document: str, model: str) -> None:
        """Notes that a prefix was used just now, and under which names."""
        with contextlib.suppress(OSError, StoreError):
            os.utime(path)
            details = path.with_suffix(".json")
            said = {"document": document, "model": model}
            if _load_details(details) != said:
                write_atomically(details, json.dumps(said))
                details.chmod(0o600)

    def open_new(self, path: Path, size: int) -> Path:
        """Makes room for a file and creates it, unfinished; `finish` gives it its name.

        Raises:
            StoreError: It does not fit the limit or the disk, or the folder is not to be used.
        """
        if reason := self.refuse():
            raise StoreError(f"{reason}.")
        if size > self.limit_bytes:
            raise StoreError(
                f"it takes {size / GIB:,.1f} GiB and {self.limit_bytes / GIB:,.1f} are allowed.",
                hint="--prefix-cache-gib allows more.",
            )
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_leftovers()
        self._make_room(size)
        free = shutil.disk_usage(self.path).free
        if free < size + SPARE_BYTES:
            raise StoreError(
                f"the disk of {self.path} has {free / GIB:,.1f} GiB left, and it takes "
                f"{size / GIB:,.1f}."
            )
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return unfinished

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder meanwhile.

        Raises:
            StoreError: Another one has been writing for long.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            ends = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise StoreError(f"another process writes to {self.path}.") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(handle)

    def clear(self, *, older_than_s: float | None = None, model: str | None = None) -> list[Path]:
        """Removes stored prefixes, and what killed processes have left; returns what is gone.

        Args:
            older_than_s: Only those that were not used for so long.
            model: Only those of this model, named as `entries` has it, or by its last part.
        """
        removed = []
        for entry in self.entries():
            if older_than_s is not None and time.time() - entry.last_used < older_than_s:
                continue
            if model is not None and not names_model(model, entry.model):
                continue
            entry.remove()
            removed.append(entry.path)
        self._remove_leftovers()
        return removed

    def _make_room(self, size: int) -> None:
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        while entries and total + size > self.limit_bytes:
            oldest = entries.pop()
            oldest.remove()
            total -= oldest.bytes

    def _remove_leftovers(self) -> None:
        stored = {entry.path.stem for entry in self.entries()}
        for path in self.path.glob("*"):
            head = path.name.partition(".")[0]
            if not _NAME.fullmatch(f"{head}.safetensors"):
                continue
            with contextlib.suppress(OSError):
                old = time.time() - path.stat().st_mtime > LEFTOVER_S
                if old and (
                    path.suffix == ".tmp" or (path.suffix == ".json" and head not in stored)
                ):
                    path.unlink()


def names_model(given: str, stored: str) -> bool:
    """Whether a name that a user gives is that of a model.

    >>> names_model("./models/tiny/", "models/tiny"), names_model("tiny", "models/tiny")
    (True, True)
    """
    given = given.rstrip("/").removeprefix("./")
    if given == stored or stored.endswith(f"/{given}"):
        return True
    path = Path(given).expanduser()
    return path.exists() and "/".join(path.resolve().parts[-2:]) == stored


def _load_details(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
