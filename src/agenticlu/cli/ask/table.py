"""Tables of answers on disk: documents by questions, one cell an answer with its citation."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.files import Closing, DirectoryLock, load_rows, write_atomically
from agenticlu.core.printing import encode_json
from agenticlu.core.records import content_id
from agenticlu.documents.sources import RECORD_ENDING

if TYPE_CHECKING:
    from agenticlu.dialogue.answer import Answer

Row = dict[str, Any]
Key = tuple[str, str, tuple[str, ...]]
"""Document, question, and the question's options."""
ENDINGS = (".csv", ".jsonl")
_FORMULA = re.compile(r"[=+@\t\r]|-(?!\d)")
"""How a cell begins that a spreadsheet would compute."""


def key_of(row: Mapping[str, Any]) -> Key:
    """Returns which cell a row fills."""
    return str(row["document"]), str(row["question"]), tuple(row.get("options") or ())


def record_of(path: Path) -> Path:
    """Returns the file that keeps the cells of a table."""
    return path.with_suffix(RECORD_ENDING) if path.suffix.lower() == ".csv" else path


class AnswerTable(Closing):
    """The cells of a table; each is kept the moment it is finished.

    A .jsonl file is its own record: a line a cell. A .csv file is drawn from such a record beside
    it, `NAME.cells.jsonl`. Only one process writes at a time.

    Args:
        path: The table, .csv or .jsonl; need not exist.
        settings: What answers depend on; those of the cells that are there must be the same.

    Raises:
        UsageError: Another ending, or the cells were made with other settings.
        StoreError: The record cannot be read or written, or another process writes it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise UsageError(
                f"--out {str(path)!r}: a table ends in {' or '.join(ENDINGS)}.",
                hint=f"--out {path.with_suffix('.csv')}",
            )
        self.path = path
        self.settings = dict(settings)
        self.record = record_of(path)
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._file = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = StoreError(f"Another process is filling {path}.", hint="Wait until it ends.")
            self._lock = DirectoryLock(self._lock_path, busy=busy)
        except OSError as error:
            raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
        try:
            self.rows = self._load()
            # Without a torn last line, to which the next cell would be joined.
            self._write_record(self.rows.values())
            self._file = os.open(self.record, os.O_WRONLY | os.O_APPEND)
        except BaseException:
            self.close()
            raise

    def _load(self) -> dict[Key, Row]:
        if not self.record.exists():
            return {}
        rows: dict[Key, Row] = {}
        for row in load_rows(self.record, error=StoreError, skip_torn=True):
            if not {"document", "question", "cell", "settings"} <= row.keys():
                raise StoreError(
                    f"{self.record} is no table of answers.", hint="Give another --out."
                )
            self._check_settings(row["settings"])
            rows[key_of(row)] = row
        return rows

    def _check_settings(self, others: object) -> None:
        others = others if isinstance(others, dict) else {}
        for name in {**self.settings, **others}:
            if self.settings.get(name) != others.get(name):
                raise UsageError(
                    f"{self.path} was made with other settings: {name} was {others.get(name)!r}, "
                    f"and is {self.settings.get(name)!r} now.",
                    hint="Give the same settings, or another --out.",
                )

    def is_done(self, key: Key, cell: str) -> bool:
        """Whether a cell is answered, of the document as it is now."""
        row = self.rows.get(key)
        return row is not None and row["cell"] == cell and row.get("error") is None

    def add(self, row: Row) -> None:
        """Appends a finished or failed cell.

        Raises:
            StoreError: The disk is full.
        """
        data = f"{encode_json(row)}\n".encode()
        try:
            while data:  # the system may take a part
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise StoreError(
                f"Cannot write {self.record}: {error.strerror}.",
                hint="Free some space, then run the same command again.",
            ) from error
        self.rows[key_of(row)] = row

    def finish(
        self, documents: Sequence[str], questions: Sequence[tuple[str, tuple[str, ...]]]
    ) -> None:
        """Writes the table in order: of documents and questions, those of earlier runs behind."""
        order = [(name, *question) for name in documents for question in questions]
        known = dict.fromkeys([*order, *self.rows])
        self.rows = {key: self.rows[key] for key in known if key in self.rows}
        self._write_record(self.rows.values())
        if self.record != self.path:
            write_atomically(self.path, render_csv(self.rows))

    def _write_record(self, rows: Iterable[Row]) -> None:
        write_atomically(self.record, "".join(f"{encode_json(row)}\n" for row in rows))

    def close(self) -> None:
        """Lets others write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with contextlib.suppress(OSError):
            self._lock_path.unlink(missing_ok=True)
        self._lock.close()


def cell_id(document_id: str, key: Key) -> str:
    """Returns an id of a cell that changes with the document's text."""
    name, question, options = key
    return content_id(name, document_id, question, *options)


def render_csv(rows: Mapping[Key, Row]) -> str:
    """Renders a table: a line a document, a column a question."""
    documents = list(dict.fromkeys(key[0] for key in rows))
    questions = list(dict.fromkeys(key[1:] for key in rows))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["document", *(_escape(question) for question, _ in questions)])
    for name in documents:
        cells = [rows.get((name, *question)) for question in questions]
        writer.writerow([_escape(name), *(_escape(render_cell(cell)) for cell in cells)])
    return text.getvalue()


def _escape(text: str) -> str:
    """Keeps a spreadsheet from computing what a document or a model wrote."""
    return f"'{text}" if _FORMULA.match(text) else text


def render_cell(row: Mapping[str, Any] | None) -> str:
    """Renders the answer of a cell with its best citation; '' for one that was not asked."""
    if row is None:
        return ""
    if row.get("error") is not None:
        return f"FAILED: {row['error']}"
    answer = row.get("answer") or "(no answer)"
    if row.get("options") and len(answer) == 1:
        answer = f"{answer}. {row['options'][ord(answer) - 65]}"
    if not row.get("supported"):
        return f"{answer} [not supported by the document]"
    cited = sorted(row.get("citations") or (), key=lambda one: not one["verified"])
    if not cited:
        return f"{answer} [no passage]"
    first = cited[0]
    page = first.get("page_name") or (first["page"] is not None and f"page {first['page']}")
    place = page or f"paragraph {first['piece']}"
    quote = " ".join((first["quote"] or "").split())
    if first["verified"]:
        return f"{answer} [{place}: “{quote}”]"
    return f"{answer} [{place}]"


def as_row(name: str, source: str, cell: str, settings: Mapping[str, Any], answer: Answer) -> Row:
    """Returns the row of an answered cell."""
    return {
        "document": name,
        "cell": cell,
        **answer.model_dump(mode="json"),
        "source": source,
        "settings": dict(settings),
        "error": None,
    }


def as_failure(
    name: str, source: str, cell: str, settings: Mapping[str, Any], key: Key, error: str
) -> Row:
    """Returns the row of a cell that failed."""
    return {
        "document": name,
        "cell": cell,
        "source": source,
        "question": key[1],
        "options": list(key[2]),
        "answer": None,
        "settings": dict(settings),
        "error": error,
    }
