"""SQLite as a run uses it: one thread that writes, in groups, and errors in words."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError

MAX_BATCH = 256
"""Appends in one commit at most."""
REMOTE_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "beegfs", "gpfs", "afs", "fuse"}
)
"""Where SQLite's locks and durability cannot be trusted."""
DAMAGED_HINT = "Restore it from a copy, merge what was sealed of it, or give --out another folder."
Statement = tuple[str, tuple[Any, ...]]
"""SQL and its parameters."""


class Writer(threading.Thread):
    """Owns the writing connection; commits what has gathered since the last commit."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="store-writer", daemon=True)
        self._path = path
        self._jobs: queue.SimpleQueue[
            tuple[Sequence[Statement], concurrent.futures.Future[None]] | None
        ] = queue.SimpleQueue()
        self._failure: StoreError | None = None
        self.commits = 0
        """Commits so far."""

    def submit(self, statements: Sequence[Statement]) -> concurrent.futures.Future[None]:
        """Queues statements for one commit; the future is done when the disk has them."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        # What is queued is written, even if whoever waits for it is cancelled.
        future.set_running_or_notify_cancel()
        self._jobs.put((statements, future))
        return future

    def stop(self) -> None:
        """Writes what is queued and ends the thread."""
        self._jobs.put(None)
        self.join()

    def run(self) -> None:
        """Commits until `stop`."""
        connection = connect(self._path)
        last = False
        while not last:
            jobs, last = self._gather()
            if jobs:
                self._commit(connection, jobs)
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def _gather(
        self,
    ) -> tuple[list[tuple[Sequence[Statement], concurrent.futures.Future[None]]], bool]:
        jobs: list[tuple[Sequence[Statement], concurrent.futures.Future[None]]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) >= MAX_BATCH:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _commit(
        self,
        connection: sqlite3.Connection,
        jobs: Sequence[tuple[Sequence[Statement], concurrent.futures.Future[None]]],
    ) -> None:
        if self._failure is None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for statements, _ in jobs:
                    for sql, parameters in statements:
                        connection.execute(sql, parameters)
                connection.execute("COMMIT")
                self.commits += 1
            except Exception as error:  # whatever it is, whoever waits must be told
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._failure = store_error(self._path, error)
        for _, future in jobs:
            if self._failure is None:
                future.set_result(None)
            else:
                future.set_exception(self._failure)


def connect(path: Path, *, writable: bool = True) -> sqlite3.Connection:
    """Opens a run's file; what is written is on the disk when a commit returns."""
    if writable:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    else:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def store_error(path: Path, error: Exception) -> StoreError:
    """Returns what went wrong with a run's file, in words."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return StoreError(
            f"The disk is full: {path} could not grow. Everything finished before is kept.",
            hint="Free space, then run the same command again.",
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(
            f"{path} is no readable run file ({error}).",
            hint=DAMAGED_HINT,
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path} cannot be opened ({error}).", hint="Check that it is a file.")
    return StoreError(f"{path}: {error}")


def file_system_of(path: Path) -> str | None:
    """Returns the type of the file system a path is on; None where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    resolved = path.resolve()
    best: tuple[int, str] | None = None
    for line in mounts:
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ")
        if resolved.is_relative_to(point) and (best is None or len(point) >= best[0]):
            best = (len(point), fields[2])
    return None if best is None else best[1]
