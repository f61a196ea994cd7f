"""The folder of results: one writer at a time, and nothing left of a run that never began."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from agenticlu.core.errors import StoreError
from agenticlu.evaluation.config import CONFIG_NAME
from agenticlu.evaluation.predictions import FILE_NAME

LOCK_NAME = "eval.lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class ResultsFolder:
    """Holds the writer's lock of a folder; made where there is none.

    Where an error ends a run before its first result, what the run itself made is removed.

    Args:
        path: The folder.

    Raises:
        StoreError: It cannot be made or written, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(
                f"Results cannot be written to {str(path)!r}: {error.strerror}.",
                hint="Give another folder by --out.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(self._lock)
                raise StoreError(
                    f"Another process is writing results to {str(path)!r}.",
                    hint="Wait until it ends, or give another folder by --out.",
                ) from error
            # A file system without locks: one writer is then the user's own care.

    def __enter__(self) -> ResultsFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._is_new and not self._has_results():
            self._remove()
        os.close(self._lock)

    def _has_results(self) -> bool:
        path = self.path / FILE_NAME
        return path.is_file() and path.stat().st_size > 0

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            for name in (FILE_NAME, CONFIG_NAME, LOCK_NAME):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()
