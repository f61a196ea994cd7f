"""Output directories: atomic writes, one writer at a time, and which command owns a directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from agenticlu.core.errors import StoreError, UsageError

OWNER_FILES = {
    "generate": ("run.sqlite", "a search"),
    "dataset": ("croissant.json", "a data set"),
    "train": ("dropped.jsonl", "a training run"),
    "eval": ("predictions.jsonl", "an evaluation"),
}
"""Command to a file that it alone writes, and to what the directory then holds."""
_LOCK_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file through a synced temporary file beside it, so that readers see old or new.

    Missing parent directories are created. Text is written as UTF-8 with its line ends unchanged.

    Raises:
        StoreError: The disk is full or the directory is not writable; an existing file is kept.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # Without this a power failure after the rename may leave an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"Disk full: {path} was not written.") from error
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Makes a rename survive a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_owner(out: Path, command: str) -> None:
    """Refuses a directory that holds another command's results.

    Several commands write `config.json`, `summary.json` or `metrics.jsonl`; in a shared directory
    one would overwrite what another reads back.

    Args:
        out: The output directory; need not exist.
        command: The command about to write, a key of `OWNER_FILES`.

    Raises:
        UsageError: Names what is there.
    """
    if (out / OWNER_FILES[command][0]).exists():
        return
    for name, (file, what) in OWNER_FILES.items():
        if name != command and (out / file).exists():
            raise UsageError(
                f"--out {out} holds {what} ({file}), which agenticlu {command} would overwrite.",
                hint=f"Give another --out, for example {out.resolve().parent / command}",
            )


class DirectoryLock:
    """The advisory lock of a directory's only writer; the system drops it when the process ends.

    A file system without locks is not an error: there the user has to keep to one writer.

    Args:
        path: The lock file; created if missing, never removed.
        busy: What the error says when another process holds the lock.

    Raises:
        StoreError: Another process holds it.
        OSError: The lock file cannot be created.
    """

    def __init__(self, path: Path, *, busy: StoreError) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCK_HELD:
                self.release()
                raise busy from error

    def release(self) -> None:
        """Lets others write; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
