"""The SQLite file of a run: schema, the writer's lock, and a thread that commits in groups."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fcntl
import json
import os
import queue
import shlex
import sqlite3
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.files import Closing, DirectoryLock

FILE_NAME = "run.sqlite"
LOCK_NAME = "run.lock"
APPLICATION_ID = 0x41474C55
"""Marks our files among all SQLite files ("AGLU")."""
STORE_VERSION = 3

_SCHEMA = """
CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE document (
    id TEXT PRIMARY KEY, header TEXT NOT NULL, text BLOB NOT NULL, pieces BLOB NOT NULL
);
CREATE TABLE question (
    id TEXT PRIMARY KEY, document_id TEXT NOT NULL, position INTEGER NOT NULL, record TEXT NOT NULL
);
CREATE INDEX question_position ON question (position);
CREATE TABLE call (
    key TEXT PRIMARY KEY, phase TEXT NOT NULL, document_id TEXT NOT NULL, question_id TEXT,
    node_id TEXT, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 1, reply BLOB,
    failure TEXT, requests INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
    started REAL, finished REAL, thinking_tokens INTEGER NOT NULL DEFAULT 0,
    most_prompt_tokens INTEGER NOT NULL DEFAULT 0,
    most_completion_tokens INTEGER NOT NULL DEFAULT 0,
    cut_prompt_tokens INTEGER NOT NULL DEFAULT 0, cut_completion_tokens INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE grounding (
    key TEXT PRIMARY KEY, document_id TEXT NOT NULL, record BLOB NOT NULL,
    calls INTEGER NOT NULL, repeats INTEGER NOT NULL, requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, finished REAL, thinking_tokens INTEGER NOT NULL DEFAULT 0,
    cut_prompt_tokens INTEGER NOT NULL DEFAULT 0, cut_completion_tokens INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE judgement (key TEXT PRIMARY KEY, judge TEXT NOT NULL, record TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE tree (
    id TEXT PRIMARY KEY, question_id TEXT NOT NULL, state TEXT NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE node (
    id TEXT PRIMARY KEY, tree_id TEXT NOT NULL, depth INTEGER NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX node_tree ON node (tree_id);
"""
_COUNTED = ("prompt", "completion")
ADDED = {
    1: {"call": ["thinking_tokens"], "grounding": ["thinking_tokens"]},
    2: {
        "call": [f"{kind}_{what}_tokens" for kind in ("most", "cut") for what in _COUNTED],
        "grounding": [f"cut_{what}_tokens" for what in _COUNTED],
    },
}
"""Columns of counts that the version after each brought."""
_UPGRADES = {
    version: " ".join(
        f"ALTER TABLE {table} ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0;"
        for table, names in tables.items()
        for name in names
    )
    for version, tables in ADDED.items()
}
"""What brings a file of an older version to the next. Columns are added behind the others, so that
rows of older segments are those of today without their end."""
TABLES = ("document", "question", "call", "grounding", "judgement", "tree", "node")
"""Tables whose rows are merged by key."""
_LISTED = "IN (SELECT value FROM json_each(?))"
_ABOUT_DOCUMENTS = {
    "document": f"id {_LISTED}",
    "question": f"document_id {_LISTED}",
    "call": f"document_id {_LISTED}",
    "grounding": f"document_id {_LISTED}",
    "tree": f"question_id IN (SELECT id FROM question WHERE document_id {_LISTED})",
}
PUT = "INSERT OR REPLACE INTO run VALUES (?, ?)"
"""Sets a setting of the run."""
MAX_BATCH = 256
"""Maximum appends in one commit."""
REMOTE_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "beegfs", "gpfs", "afs", "fuse"}
)
"""File systems on which SQLite's locks and durability are not reliable."""
DAMAGED_HINT = "Restore it from a copy, merge its sealed segments, or give --out another folder."
Statement = tuple[str, tuple[Any, ...]]
"""SQL and its parameters."""
_Append = tuple[Sequence[Statement], concurrent.futures.Future[None]]


def pack(data: Any) -> bytes:
    """Returns JSON data as bytes, compressed where that helps."""
    raw = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return b"z" + zlib.compress(raw, 6) if len(raw) > 400 else b"j" + raw


def unpack(blob: bytes) -> Any:
    """Returns the data that `pack` was given."""
    body = zlib.decompress(blob[1:]) if blob[:1] == b"z" else blob[1:]
    return json.loads(body)


class RunFile(Closing):
    """The file of a run: one process writes, any number read.

    Use as a context manager, or call `close`. Writing methods return when the disk has the rows.

    Args:
        run: Folder of the run; made when `writable`.
        writable: Take the writer's lock. Readers see a live run as of each query.

    Raises:
        StoreError: The file is foreign, torn, newer than this program, locked by another writer,
            or on a network file system.
    """

    def __init__(self, run: str | Path, *, writable: bool = True) -> None:
        self.folder = Path(run)
        self.path = self.folder / FILE_NAME
        self._lock: DirectoryLock | None = None
        self._writer: Writer | None = None
        if writable:
            # Locked before it is opened: of two processes that start together, one must create
            # the schema and the other must not see it half made.
            self._lock = _lock_folder(self.folder)
        elif not self.path.is_file():
            raise StoreError(
                f"{self.folder} is not a run folder: it has no {FILE_NAME}.",
                hint="Give the folder that `agenticlu generate --out` wrote.",
            )
        try:
            self._reader = connect(self.path, writable=writable)
            _check_or_create(self._reader, self.path, writable)
        except sqlite3.Error as error:
            self._unlock()
            raise store_error(self.path, error) from error
        except StoreError:
            self._unlock()
            raise
        if writable:
            self._writer = Writer(self.path)
            self._writer.start()

    def close(self) -> None:
        """Writes what is queued, folds the log into the file and frees the lock."""
        # In this order: an open reader would keep the writer from truncating the log, and the next
        # process may only begin once everything queued here is on the disk.
        self._reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer = None
        self._unlock()

    def get(self, name: str) -> Any:
        """Returns a setting of the run, or None."""
        value = self._value("SELECT value FROM run WHERE name = ?", (name,))
        with self.decoding("a setting"):
            return None if value is None else json.loads(value)

    def put(self, **values: Any) -> None:
        """Sets settings of the run."""
        self.write([(PUT, (name, json.dumps(v, sort_keys=True))) for name, v in values.items()])

    def write(self, statements: Sequence[Statement]) -> None:
        """Commits statements in one transaction and waits for the disk."""
        self._submit(statements).result()

    async def append(self, statements: Sequence[Statement]) -> None:
        """Commits statements in one transaction, together with whatever else is waiting."""
        await asyncio.wrap_future(self._submit(statements))

    def columns(self, table: str) -> tuple[str, ...]:
        """Returns a table's column names."""
        assert table in TABLES
        return tuple(row[1] for row in self._all(f"PRAGMA table_info({table})"))

    def rows(
        self, table: str, documents: Collection[str] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Yields a table's rows as stored, ordered by key.

        Args:
            table: One of `TABLES`.
            documents: Only rows about these documents; judgements are about none.
        """
        assert table in TABLES
        where = ""
        parameters: tuple[str, ...] = ()
        if documents is not None:
            where = f"WHERE {_ABOUT_DOCUMENTS[table]}"
            parameters = (json.dumps(sorted(documents)),)
        with self._reading():
            yield from self._reader.execute(f"SELECT * FROM {table} {where} ORDER BY 1", parameters)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads one state of the file, whatever another process writes meanwhile; may be nested."""
        if self._reader.in_transaction:
            yield
            return
        self._all("BEGIN")
        self._all("SELECT 1 FROM run LIMIT 1")  # SQLite takes the snapshot at the first read
        try:
            yield
        finally:
            self._all("ROLLBACK")

    @contextlib.contextmanager
    def decoding(self, what: str) -> Iterator[None]:
        """Reports what cannot be decoded inside as damage to the file."""
        try:
            yield
        except (ValueError, zlib.error) as error:
            raise StoreError(
                f"{self.path} is damaged: {what} cannot be read ({str(error).splitlines()[0]}).",
                hint=DAMAGED_HINT,
            ) from error

    def _submit(self, statements: Sequence[Statement]) -> concurrent.futures.Future[None]:
        if self._writer is None:
            raise StoreError(f"{self.path} is open read-only.")
        return self._writer.submit(statements)

    def _value(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        """Returns the first column of the first row, or None."""
        row = self._one(sql, parameters)
        return None if row is None else row[0]

    def _one(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        with self._reading():
            row: tuple[Any, ...] | None = self._reader.execute(sql, parameters).fetchone()
            return row

    def _all(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._reading():
            return self._reader.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()


class Writer(threading.Thread):
    """Owns the writing connection; commits what has gathered since the last commit.

    A commit waits for the disk. Whatever arrives meanwhile shares the next one, so that the number
    of commits follows the disk's speed and not the number of calls.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(name="store-writer", daemon=True)
        self._path = path
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._failure: StoreError | None = None
        self.commits = 0
        """Commits so far: fewer than appends when they were grouped."""

    def submit(self, statements: Sequence[Statement]) -> concurrent.futures.Future[None]:
        """Queues statements for one commit; the future is done when the disk has them."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        # What is queued is written, even if whoever waits for it is cancelled.
        future.set_running_or_notify_cancel()
        self._queue.put((statements, future))
        return future

    def stop(self) -> None:
        """Writes what is queued and ends the thread."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """Commits until `stop`."""
        connection = connect(self._path)
        is_last = False
        while not is_last:
            appends, is_last = self._gather()
            if appends:
                self._commit(connection, appends)
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def _gather(self) -> tuple[list[_Append], bool]:
        """Waits for one append and takes all that are queued behind it; True with the last."""
        appends: list[_Append] = []
        with contextlib.suppress(queue.Empty):
            append = self._queue.get()
            while append is not None:
                appends.append(append)
                if len(appends) == MAX_BATCH:
                    return appends, False
                append = self._queue.get_nowait()
            return appends, True
        return appends, False

    def _commit(self, connection: sqlite3.Connection, appends: Sequence[_Append]) -> None:
        # After one failure nothing more is written: a later call that is in the file without an
        # earlier one that it follows from would make the ledger lie.
        if self._failure is None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for statements, _ in appends:
                    for sql, parameters in statements:
                        connection.execute(sql, parameters)
                connection.execute("COMMIT")
                self.commits += 1
            except Exception as error:  # of any kind: whoever waits for the future must hear of it
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                self._failure = store_error(self._path, error)
        for _, future in appends:
            if self._failure is None:
                future.set_result(None)
            else:
                future.set_exception(self._failure)


def connect(path: Path, *, writable: bool = True) -> sqlite3.Connection:
    """Opens a run's file; what is written is on the disk when a commit returns."""
    if not writable:
        return _connect_reader(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # FULL: in WAL mode, SQLite otherwise syncs at checkpoints only, and a power failure would lose
    # calls that were reported as recorded.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def _connect_reader(path: Path) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 10000")
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        # Where SQLite can put no files beside it, it reads a file only as one that nobody writes.
        wal = path.with_name(f"{path.name}-wal")
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return connection
        if wal.is_file() and wal.stat().st_size:
            connection.close()
            raise StoreError(
                f"{path} was not closed by its writer, and its folder cannot be written, as reading"
                " what is not yet in it needs.",
                hint=f"Copy the folder to where it can be: cp -r {shlex.quote(str(path.parent))} "
                "COPY",
            ) from error
        connection.close()
        connection = sqlite3.connect(
            f"{address}&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
    return connection


def _lock_folder(folder: Path) -> DirectoryLock:
    """Makes the folder and takes its writer's lock."""
    busy = StoreError(
        f"Another process is writing to {folder}.",
        hint=f"Wait for it to finish, or watch it: agenticlu status {folder}",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kind = file_system_of(folder)
        if kind is not None and kind.split(".")[0] in REMOTE_FILE_SYSTEMS:
            raise StoreError(
                f"{folder} is on a network file system ({kind}), where SQLite's locks and "
                "durability cannot be trusted.",
                hint="Write to a local disk; seal finished work to shared storage with --seal.",
            )
        return DirectoryLock(folder / LOCK_NAME, busy=busy)
    except OSError as error:
        raise StoreError(f"Cannot create the folder {folder}: {error.strerror}.") from error


def is_locked(run: Path) -> bool:
    """Whether a process is writing to a run."""
    try:
        lock = os.open(run / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _check_or_create(connection: sqlite3.Connection, path: Path, writable: bool) -> None:
    """Creates the schema in a new file, or upgrades it; refuses a file that is not ours to read.

    Raises:
        StoreError: It is empty, of another program, or of a newer version.
    """
    tables, application, version = (
        connection.execute(sql).fetchone()[0]
        for sql in (
            "SELECT COUNT(*) FROM sqlite_master",
            "PRAGMA application_id",
            "PRAGMA user_version",
        )
    )
    if tables == 0 and application == 0:
        if not writable:
            raise StoreError(
                f"{path} is empty: no run was started in it, or the file was truncated.",
                hint=DAMAGED_HINT,
            )
        connection.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {STORE_VERSION}; {_SCHEMA} COMMIT;"
        )
    elif application != APPLICATION_ID:
        raise StoreError(
            f"{path} is an SQLite file of another program.",
            hint="Give --out a folder of its own.",
        )
    elif version > STORE_VERSION:
        raise StoreError(
            f"{path} was written by a newer version (format {version}; this one reads up to "
            f"{STORE_VERSION}).",
            hint="Update: pip install --upgrade agenticlu",
        )
    elif writable:
        steps = " ".join(_UPGRADES[one] for one in range(version, STORE_VERSION))
        if steps:
            connection.executescript(
                f"BEGIN; PRAGMA user_version = {STORE_VERSION}; {steps} COMMIT;"
            )


def store_error(path: Path, error: Exception) -> StoreError:
    """Returns the error to show for what SQLite raised about a run's file."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return StoreError(
            f"The disk is full: {path} could not grow. Everything finished so far is kept.",
            hint="Free space, then run the same command again.",
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(f"{path} is not a readable run file ({error}).", hint=DAMAGED_HINT)
    if code is not None and code & 0xFF == sqlite3.SQLITE_IOERR:
        return StoreError(
            f"{path} could not be read or written ({error}): the disk is full, or fails.",
            hint="Free space, then run the same command again; everything finished is kept.",
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path} cannot be opened ({error}).", hint="Check that it is a file.")
    return StoreError(f"{path}: {error}")


def file_system_of(path: Path) -> str | None:
    """Returns the type of the file system a path is on; None where the system does not say."""
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
