"""The history of questions: one SQLite file of the user's own, searchable; deleted is overwritten.

Several processes may use it at once. A broken file is set aside under another name, with a message,
and a new one is begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from agenticlu.core.errors import StoreError
from agenticlu.core.files import Closing
from agenticlu.core.records import without_lone_surrogates
from agenticlu.core.words import fold_letters

Result = TypeVar("Result")
Entry = dict[str, Any]
Entries = list[Entry]
APPLICATION_ID = 0x41474C48
"""Marks our files among all SQLite files ("AGLH")."""
HISTORY_VERSION = 1
BUSY_S = 10.0
"""Seconds to wait for another process's writing."""
SUMMARY = (
    *("id", "conversation", "document", "document_name", "asked_at"),
    *("question", "statement", "status"),
)
"""Fields of an entry in a list."""
_SCHEMA = f"""
CREATE TABLE entry (
    number INTEGER PRIMARY KEY,
    {", ".join(f"{field} TEXT NOT NULL" for field in SUMMARY)},
    folded TEXT NOT NULL
);
CREATE UNIQUE INDEX entry_id ON entry (id);
CREATE INDEX entry_document ON entry (document);
CREATE INDEX entry_conversation ON entry (conversation);
CREATE INDEX entry_time ON entry (asked_at);
CREATE TABLE record (number INTEGER PRIMARY KEY, value TEXT NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {HISTORY_VERSION};
"""
"""Whole entries stand apart, so that a search reads little."""
_ACCENTS = re.compile("[\u0300-\u036f]")
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def history_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns where the user's history is kept.

    That is `$XDG_DATA_HOME/agenticlu/history.sqlite`, or in the platform's folder for such data.

    Raises:
        StoreError: There is no home folder.
    """
    home = Path(environ.get("HOME", ""))
    if (base := Path(environ.get("XDG_DATA_HOME", ""))).is_absolute():
        return base / "agenticlu" / "history.sqlite"
    if not home.is_absolute():
        raise StoreError(
            "There is no home folder to keep the history in.",
            hint="Set HOME or XDG_DATA_HOME, or keep none: --no-history",
        )
    mac = sys.platform == "darwin"
    folder = home / ("Library/Application Support" if mac else ".local/share")
    return folder / "agenticlu" / "history.sqlite"


class History(Closing):
    """Entries of answered questions, the newest first.

    An entry is a dictionary with `id`, `conversation`, `document`, `document_name`, `asked_at` (ISO
    8601, in UTC), `question` and `answer` (an `Answer` as JSON); whatever else it holds is kept.
    Its methods may be called from any thread.

    Args:
        path: The file, made where it is missing, for its owner alone; None keeps the entries in
            memory.
        say: Is told of a broken file that was set aside.

    Raises:
        StoreError: The file cannot be opened, is another program's or a newer version's.
    """

    def __init__(
        self, path: str | Path | None, *, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path = None if path is None else Path(path)
        self._say = say
        self._lock = threading.RLock()
        self._file: sqlite3.Connection | None = None
        self._do(lambda file: None)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Keeps an entry; one of the same id is replaced."""
        answer = entry.get("answer") or {}
        given = {
            **entry,
            "statement": answer.get("statement") or answer.get("answer"),
            "status": answer.get("status") or _status(answer),
        }
        fields = {name: without_lone_surrogates(str(given.get(name) or "")) for name in SUMMARY}
        searched = (fields[name] for name in ("question", "statement", "document_name"))
        folded = "\n".join(map(_fold, searched))
        names = ", ".join((*SUMMARY, "folded"))
        marks = ", ".join("?" * (len(SUMMARY) + 1))
        value = json.dumps(entry)

        def write(file: sqlite3.Connection) -> None:
            _delete(file, "id = ?", fields["id"])
            cursor = file.execute(
                f"INSERT INTO entry ({names}) VALUES ({marks})", (*fields.values(), folded)
            )
            file.execute("INSERT INTO record VALUES (?, ?)", (cursor.lastrowid, value))

        self._do(write)

    def list(self, document: str | None = None, q: str | None = None, limit: int = 200) -> Entries:
        """Returns the newest entries without their answers: `SUMMARY`.

        Args:
            document: Only of this document.
            q: Only those that hold all these words or parts of words in question, answer or
                document's name, whatever their case and accents.
            limit: Most entries.
        """
        conditions, values = ["1"], []
        if document is not None:
            conditions.append("document = ?")
            values.append(document)
        for word in _fold(q or "").split():
            conditions.append("instr(folded, ?)")
            values.append(word)
        rows = self._do(
            lambda file: file.execute(
                f"SELECT {', '.join(SUMMARY)} FROM entry WHERE {' AND '.join(conditions)}"
                " ORDER BY asked_at DESC, number DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        )
        return [dict(zip(SUMMARY, row, strict=True)) for row in rows]

    def get(self, id: str) -> Entry | None:  # noqa: A002
        """Returns a whole entry; None where there is none of that id."""
        found = self._whole("id = ?", id)
        return found[0] if found else None

    def conversation(self, id: str) -> Entries:  # noqa: A002
        """Returns the whole entries of a conversation, the first first."""
        return self._whole("conversation = ?", id)

    def delete(self, id: str) -> None:  # noqa: A002
        """Deletes an entry; none of that id is fine."""
        self._do(lambda file: _delete(file, "id = ?", id))

    def delete_document(self, document: str) -> None:
        """Deletes all entries of a document."""
        self._do(lambda file: _delete(file, "document = ?", document))

    def close(self) -> None:
        """Closes the file; a further use opens it again."""
        with self._lock:
            if self._file is not None and self.path is not None:
                self._file.close()
                self._file = None

    def _whole(self, condition: Literal["id = ?", "conversation = ?"], value: str) -> Entries:
        rows = self._do(
            lambda file: file.execute(
                f"SELECT value FROM entry JOIN record USING (number) WHERE {condition}"
                " ORDER BY asked_at, number",
                (value,),
            ).fetchall()
        )
        return [json.loads(text) for (text,) in rows]

    def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Does something in one transaction; once more in a new file where the file is broken."""
        with self._lock:
            try:
                try:
                    return self._transact(work)
                except sqlite3.DatabaseError as error:
                    if not _is_broken(error) or self.path is None:
                        raise
                    self._replace(self.path)
                    return self._transact(work)
            except (sqlite3.Error, OSError) as error:
                raise StoreError(
                    f"Cannot use the history {str(self.path)!r}: {error}.",
                    hint="Make room, or the folder yours; or keep no history: --no-history",
                ) from error

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._file is None:
            self._file = _open(self.path)
        with self._file:
            return work(self._file)

    def _replace(self, path: Path) -> None:
        """Sets a broken file aside, unless another process has just done so."""
        self.close()
        with _locked(path.with_name(f"{path.name}.lock")):
            if not _check(path):
                return
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            aside = path.with_name(f"{path.name}.broken-{stamp}-{os.getpid()}")
            for end in ("-journal", ""):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
        self._say(
            f"The history {str(path)!r} is broken. It was set aside as {aside.name!r}, and a new"
            " one begun."
        )


def _open(path: Path | None) -> sqlite3.Connection:
    """Opens the file, and makes it where there is none.

    Raises:
        StoreError: It is another program's, or a newer version's.
        sqlite3.Error: It is no database, or cannot be opened.
    """
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    file = sqlite3.connect(
        ":memory:" if path is None else path, timeout=BUSY_S, check_same_thread=False
    )
    try:
        # What is deleted is overwritten; a write-ahead log would keep it for a while.
        file.execute("PRAGMA secure_delete = ON")
        file.execute("BEGIN IMMEDIATE")  # two processes may both find it empty
        kind, version = (_pragma(file, name) for name in ("application_id", "user_version"))
        if kind != APPLICATION_ID and _pragma(file, "schema_version"):
            raise StoreError(
                f"{str(path)!r} is a database of another program.",
                hint="Move it away, or keep no history: --no-history",
            )
        if kind == APPLICATION_ID and version > HISTORY_VERSION:
            raise StoreError(
                f"The history {str(path)!r} has version {version}; this agenticlu knows"
                f" {HISTORY_VERSION}.",
                hint="Update agenticlu, or keep no history: --no-history",
            )
        if kind != APPLICATION_ID:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                file.execute(statement)
        file.commit()
    except BaseException:
        file.close()
        raise
    return file


def _pragma(file: sqlite3.Connection, name: str) -> int:
    return int(file.execute(f"PRAGMA {name}").fetchone()[0])


def _check(path: Path) -> bool:
    """Whether a file is a broken database."""
    try:
        file = sqlite3.connect(path, timeout=BUSY_S)
        with contextlib.closing(file):
            return str(file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok"
    except sqlite3.DatabaseError as error:
        return _is_broken(error)


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    # The lower byte is the kind, those above say more.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BROKEN


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _delete(file: sqlite3.Connection, condition: str, value: str) -> None:
    file.execute(
        f"DELETE FROM record WHERE number IN (SELECT number FROM entry WHERE {condition})", (value,)
    )
    file.execute(f"DELETE FROM entry WHERE {condition}", (value,))


def _status(answer: Mapping[str, Any]) -> str:
    return "supported" if answer.get("supported") else "unsupported"


def _fold(text: str) -> str:
    """Returns a text as it is searched: who looks for a cafe finds the café, too."""
    apart = unicodedata.normalize("NFD", fold_letters(text))
    return " ".join(unicodedata.normalize("NFC", _ACCENTS.sub("", apart)).split())
