"""Files on disk: atomic writes, directories with one owner and one writer, and rows of JSON."""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from agenticlu.core.compression import open_plain
from agenticlu.core.errors import (
    AgenticluError,
    DocumentError,
    StoreError,
    UsageError,
)
from agenticlu.core.printing import escape_json, harmless
from agenticlu.core.tables import read_arrow, read_csv

OWNER_FILES = {
    "generate": ("run.sqlite", "a search"),
    "dataset": ("croissant.json", "a data set"),
    "train": ("dropped.jsonl", "a training run"),
    "eval": ("predictions.jsonl", "an evaluation"),
}
"""Command to a file that it alone writes, and to what the directory then holds."""
_SHOWN = {".json": escape_json, ".jsonl": escape_json, ".md": harmless, ".csv": harmless}
_LOCK_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder: it is neither another's nor on a read-only disk."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file through a synced temporary file beside it, so that readers see old or new.

    Missing parent directories are created. Text is written as UTF-8 with its line ends unchanged.
    Files that people look at steer no terminal: in JSON control characters are escaped, in Markdown
    and CSV they are pictured.

    Raises:
        StoreError: The disk is full or the directory is not writable; an existing file is kept.
    """
    path = Path(path)
    if isinstance(content, str):
        content = _SHOWN.get(path.suffix, str)(content).encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            # Without this a power failure after the rename may leave an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"Disk full: {path} was not written.") from error
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Makes a rename in a directory survive a power failure."""
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


class Closing:
    """A context manager that is closed at the end of its block."""

    def close(self) -> None:
        """Frees what is held; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class DirectoryLock(Closing):
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
                self.close()
                raise busy from error

    def close(self) -> None:
        """Lets others write; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def load_json_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty one where the file is missing or holds no object.

    Raises:
        StoreError: The file is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{path} is not JSON: {error}.", hint="Move it away and run the command again."
        ) from error
    return found if isinstance(found, dict) else {}


Row = dict[str, Any]
ROW_HINT = "A row is a JSON object; in a .jsonl file each is on a line of its own."
CHUNK_CHARACTERS = 1 << 20
"""Characters of a JSON array that are read at a time."""
MOST_ROW_BYTES = 1 << 28
"""A row of more is refused: a small compressed file can hold an endless line."""
_SPACE = re.compile(r"[ \t\r\n]*")
_ARCHIVE = b"PK\x03\x04"
_TABLES = {b"PAR1": True, b"ARROW1": False}
"""How tables begin that are no text, and whether they are Parquet."""
_INVALID = (ValueError, RecursionError)
"""What json raises: also for integers of 5,000 digits and for nesting too deep for Python."""


def load_rows(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    error: type[AgenticluError] = DocumentError,
    skip_torn: bool = False,
) -> Iterator[Row]:
    """Yields the rows of a file; see `load_numbered_rows`."""
    for _, row in load_numbered_rows(path, columns=columns, error=error, skip_torn=skip_torn):
        yield row


def load_numbered_rows(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    error: type[AgenticluError] = DocumentError,
    skip_torn: bool = False,
) -> Iterator[tuple[int, Row]]:
    """Yields the rows of a file with their numbers.

    JSON lines, or JSON objects over several lines; a JSON array; CSV and TSV by their ending;
    Parquet and Arrow. All but the last two may be compressed (`core.compression`). What a file is
    tells its beginning, not its name.

    Args:
        path: The file.
        columns: Columns to read of a Parquet or Arrow file; None reads all.
        error: Class of the errors raised; it decides the exit code.
        skip_torn: Skips lines that are not JSON with a warning, as a killed writer leaves one.

    Returns:
        Line (JSONL, CSV) or entry (JSON, Parquet), counted from 1, and the row.

    Raises:
        AgenticluError: Of the class `error`: the file cannot be read, or a row is not an object.
        MissingDependencyError: pyarrow or zstandard is not installed.
    """
    path = Path(path)
    try:
        kind = plain_suffix(path)
        if (is_parquet := _find_table(path, kind, error)) is not None:
            yield from enumerate(read_arrow(path, columns, error, is_parquet=is_parquet), 1)
        elif kind in CSV_ENDINGS:
            yield from read_csv(_decode_lines(path, error), path, error)
        elif starts_array(path):
            yield from enumerate(_read_array(path, error), 1)
        else:
            yield from _read_lines(path, error, skip_torn)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise error(f"Cannot read {str(path)!r}: {reason}.") from failure


CSV_ENDINGS = (".csv", ".tsv", ".tab")
_ARROW_ENDINGS = (".arrow", ".feather", ".ipc")
_COMPRESSED_ENDINGS = (".gz", ".zst", ".bz2", ".xz")


def plain_suffix(path: Path) -> str:
    """Returns a file's ending in lower case, without that of a compression.

    >>> plain_suffix(Path("a/train.CSV.gz"))
    '.csv'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED_ENDINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _find_table(path: Path, kind: str, error: type[AgenticluError]) -> bool | None:
    """Returns whether a table that is no text is Parquet; None for other files."""
    with path.open("rb") as file:
        head = file.read(8)
    for start, is_parquet in _TABLES.items():
        if head.startswith(start):
            return is_parquet
    with open_plain(path) as plain:
        inside = plain.read(8)
    if inside != head and inside.startswith((*_TABLES, _ARCHIVE)):
        raise error(f"{path} is a compressed table.", hint="Unpack it.")
    if kind == ".parquet" and path.suffix.lower() == kind:
        return True
    return False if kind in _ARROW_ENDINGS and head[:1] not in b"{[" else None


def _load_value(text: str | bytes) -> Any:
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return _DECODER.decode(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object, of which no key is lost because it occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} occurs twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def parse_row(text: str | bytes, where: str, error: type[AgenticluError] = DocumentError) -> Row:
    """Returns the JSON object in a text.

    Args:
        text: JSON.
        where: Where it comes from, for messages: 'Line 3 of data.jsonl'.
        error: Class of the error raised.
    """
    try:
        value = _load_value(text)
    except _INVALID as failure:
        raise error(f"{where} is not JSON ({failure}).", hint=ROW_HINT) from failure
    return require_row(value, where, error)


def require_row(value: Any, where: str, error: type[AgenticluError] = DocumentError) -> Row:
    """Returns a value if it is a JSON object; see `parse_row`."""
    if not isinstance(value, dict):
        kinds = {str: "a string", list: "an array", type(None): "null", bool: "a boolean"}
        kind = kinds.get(type(value), "a number")
        raise error(f"{where} is {kind}, not a JSON object.", hint=ROW_HINT)
    return value


def _read_lines(
    path: Path, error: type[AgenticluError], skip_torn: bool
) -> Iterator[tuple[int, Row]]:
    is_first = True
    for number, line in _split_lines(path, error):
        if not line.removeprefix(codecs.BOM_UTF8).strip():
            continue
        try:
            text = _decode(line, number, path, error)
            yield number, parse_row(text, f"Line {number} of {path}", error)
        except error as failure:
            if is_first and not skip_torn and _begins_object(line):
                objects = _read_objects(path, error)
                if objects:  # not lines but objects, each printed over several of them
                    yield from objects
                    return
            if not skip_torn:
                raise failure
            warnings.warn(f"{path}: line {number} is torn, skipped", stacklevel=2)
        is_first = False


def _begins_object(line: bytes) -> bool:
    """Whether a line may be the beginning of a JSON object that goes on in the next one."""
    return line.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{") and line.endswith(b"\n")


def _read_objects(path: Path, error: type[AgenticluError]) -> list[tuple[int, Row]]:
    """Returns JSON objects that stand one after another, with their lines; empty if it is none."""
    with open_plain(path) as file:
        data = file.read(MOST_ROW_BYTES + 1)
    if len(data) > MOST_ROW_BYTES:
        return []
    try:
        text = data.decode("utf-8-sig")
        found: list[tuple[int, Row]] = []
        at = _SPACE.match(text).end()  # type: ignore[union-attr]
        line = 1 + text.count("\n", 0, at)
        while at < len(text):
            value, end = _DECODER.raw_decode(text, at)
            found.append((line, require_row(value, f"Line {line} of {path}", error)))
            after = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            line, at = line + text.count("\n", at, after), after
    except (*_INVALID, error):
        return []
    return found


def _split_lines(path: Path, error: type[AgenticluError]) -> Iterator[tuple[int, bytes]]:
    """Yields lines with their numbers, from 1.

    Raises:
        AgenticluError: Of the class `error`: one has no end.
    """
    with open_plain(path) as file:
        number = 0
        while line := file.readline(MOST_ROW_BYTES + 1):
            number += 1
            if len(line) > MOST_ROW_BYTES:
                raise error(
                    f"Line {number} of {path} is longer than {MOST_ROW_BYTES >> 20} MiB.",
                    hint=ROW_HINT,
                )
            yield number, line


def _decode_lines(path: Path, error: type[AgenticluError]) -> Iterator[str]:
    for number, line in _split_lines(path, error):
        yield _decode(line, number, path, error)


def _decode(line: bytes, number: int, path: Path, error: type[AgenticluError]) -> str:
    """Returns the text of a line; files put together keep a byte order mark at each one's start.

    Raises:
        AgenticluError: Of the class `error`: it is not UTF-8; says what it seems to be.
    """
    if number == 1:
        _refuse_other_formats(line, path, error)
    if b"\0" in line:
        raise error(
            f"{path} holds NUL bytes, in line {number}: it is damaged, or not text.",
            hint="Copy it again, or delete the NUL bytes: tr -d '\\000' < "
            f"{shlex.quote(str(path))} > NEW{path.suffix}",
        )
    try:
        return line.decode().lstrip("\ufeff")
    except UnicodeDecodeError as failure:
        raise error(
            f"{path} is not UTF-8: line {number} has the byte 0x{line[failure.start]:02x} at "
            f"position {failure.start + 1}.",
            hint=_advise_conversion(path, "latin1", "If it is Latin-1, convert it"),
        ) from failure


def _refuse_other_formats(line: bytes, path: Path, error: type[AgenticluError]) -> None:
    """Refuses what the first bytes of a file tell not to be UTF-8 text."""
    if line.startswith(_ARCHIVE):
        advice = f"Unpack it: unzip {shlex.quote(str(path))}"
        if path.suffix.lower() == ".xlsx":
            advice = "Save the sheet as CSV."
        raise error(f"{path} is a zip archive; line 1 is not text.", hint=advice)
    encoding = json.detect_encoding(line)
    if not encoding.startswith("utf-8") and line.strip(b"\0\r\n"):
        name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
        hint = _advise_conversion(path, name, "Convert it")
        raise error(f"{path} is {name[:6]}, not UTF-8 (line 1).", hint=hint)


def _advise_conversion(path: Path, encoding: str, start: str) -> str:
    name = shlex.quote(str(path))
    return f"{start}: iconv -f {encoding} -t UTF-8 {name} > NEW{path.suffix}"


def starts_array(path: Path) -> bool:
    """Whether a file is a JSON array, whatever its name; its rows are then its entries.

    No for one that cannot be read: its reader tells why.
    """
    try:
        with open_plain(path) as file:
            return file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    except OSError:
        return False


def _read_array(path: Path, error: type[AgenticluError]) -> Iterator[Row]:
    number = 1
    try:
        with io.TextIOWrapper(open_plain(path), encoding="utf-8-sig") as file:
            for value in _iterate_array(file):
                yield require_row(value, f"Entry {number} of {path}", error)
                number += 1
    except UnicodeDecodeError:
        for _ in _decode_lines(path, error):  # raises, naming the line
            pass
        raise
    except _INVALID as failure:
        reason = failure.msg if isinstance(failure, json.JSONDecodeError) else str(failure)
        raise error(f"Entry {number} of {path} is not JSON ({reason}).", hint=ROW_HINT) from failure


def _iterate_array(file: TextIO) -> Iterator[Any]:
    """Yields the values of a JSON array, holding one value and what was read ahead of it."""
    decode = _DECODER.raw_decode
    text, at, is_whole, separator = "", 0, False, "["
    while True:
        try:
            value, end = decode(text, _skip(text, at, separator))
            # What follows must be read, too: a number at the edge of the text might go on.
            end = _skip(text, end)
        except json.JSONDecodeError as failure:
            if is_whole and "".join(text[at:].split()) == "[]":
                return
            if is_whole or not _is_cut_off(failure, text):
                raise
            if len(text) - at > MOST_ROW_BYTES:
                raise json.JSONDecodeError("an entry too long", "", 0) from None
            # At least as much again as is held: a long value would take quadratic time otherwise.
            chunk = file.read(max(CHUNK_CHARACTERS, len(text) - at))
            text, at, is_whole = text[at:] + chunk, 0, not chunk
            continue
        yield value
        at, separator = end, ","
        if text[at] == "]":
            break
    while rest := text[at + 1 :]:
        if rest.strip():
            raise json.JSONDecodeError("extra data after the array", text, at)
        text, at = file.read(CHUNK_CHARACTERS), -1


def _skip(text: str, at: int, separator: str = "") -> int:
    """Returns where the next token begins, after white space and a separator."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if separator and text[at : at + 1] != separator:
        raise json.JSONDecodeError(f"expecting {separator!r}", text, at)
    at = _SPACE.match(text, at + len(separator)).end()  # type: ignore[union-attr]
    if at == len(text):
        raise json.JSONDecodeError("unexpected end of file", text, at)
    return at


def _is_cut_off(failure: json.JSONDecodeError, text: str) -> bool:
    """Whether more text may mend a failure: a file of gigabytes is not read for a missing comma."""
    longest_token = len("-Infinity")
    return failure.pos >= len(text) - longest_token or failure.msg.startswith("Unterminated")
