"""Uploads: the files of a multipart form, written to disk as they come."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from agenticlu.core.errors import MissingDependencyError, missing_dependency
from agenticlu.core.limits import MEBIBYTE
from agenticlu.core.records import without_lone_surrogates
from agenticlu.room.refusals import RoomError

MOST_FILES = 2000
MOST_FIELD_BYTES = 4096
NAME_BYTES = 255
"""Of one part of a path, as most file systems allow."""
CHUNK_BYTES = 1 << 20
"""What is gathered before it is written by a thread."""


@dataclass
class Upload:
    """What a form brought."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    """Names as they were sent, with '/' between folders, and where the contents are."""
    fields: dict[str, str] = field(default_factory=dict)


async def receive_upload(
    chunks: AsyncIterator[bytes], content_type: str, folder: Path, most_bytes: int
) -> Upload:
    """Writes the files of a form below a folder, under names that are numbers.

    Args:
        chunks: The request's body.
        content_type: Its header, with the boundary.
        folder: To write to.
        most_bytes: Of the whole.

    Raises:
        RoomError: It is no such form, too large, breaks off, or the disk is full.
    """
    form = _Form(content_type, folder)
    waiting = bytearray()
    num_bytes = 0
    try:
        async for chunk in chunks:
            num_bytes += len(chunk)
            check_size(num_bytes, most_bytes)
            waiting += chunk
            if len(waiting) >= CHUNK_BYTES:
                data, waiting = bytes(waiting), bytearray()
                await asyncio.to_thread(form.write, data)
        await asyncio.to_thread(form.write, bytes(waiting))
        return form.finish()
    finally:
        form.close()


def check_size(num_bytes: int, most_bytes: int) -> None:
    """Raises RoomError where an upload is too large."""
    if num_bytes > most_bytes:
        raise RoomError(
            f"The upload is larger than {most_bytes / MEBIBYTE:.3g} MiB, the most that is taken.",
            status=413,
            hint="Open the file by its path, which uploads nothing: agenticlu read FILE. Or allow "
            "more: --max-upload-mib.",
            headers={"Connection": "close"},
        )


def safe_parts(name: str) -> tuple[str, ...]:
    r"""Returns the parts of a relative path that stays below its folder.

    >>> safe_parts("../../etc/passwd"), safe_parts("C:\\a\\b.txt"), safe_parts("a//b.txt")
    (('etc', 'passwd'), ('C:', 'a', 'b.txt'), ('a', 'b.txt'))
    """
    parts = []
    for part in PurePosixPath(without_lone_surrogates(name).replace("\\", "/")).parts:
        kept = "".join(char for char in part if char.isprintable()).strip().strip("/")
        if kept in ("", ".", ".."):
            continue
        stem, dot, ending = kept.rpartition(".")
        while len(kept.encode()) > NAME_BYTES:
            stem = (stem or kept)[:-1]
            kept = f"{stem}{dot}{ending[-16:]}" if dot else stem
        parts.append(kept)
    return tuple(parts) or ("document",)


class _Form:
    """A form that is parsed as it comes; used by one thread at a time."""

    def __init__(self, content_type: str, folder: Path) -> None:
        try:
            from python_multipart import MultipartParser
            from python_multipart.exceptions import FormParserError
            from python_multipart.multipart import parse_options_header
        except ImportError as error:
            raise _missing() from error
        self._broken, self._options = FormParserError, parse_options_header
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise RoomError(
                "Documents are sent as a form (multipart/form-data) with fields 'files'.",
                status=415,
            )
        self._folder = folder
        self._found = Upload()
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        self._field: str | None = None
        self._text = bytearray()
        self._file: BinaryIO | None = None
        self._is_whole = False
        callbacks = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._begin_part,
            "on_part_data": self._on_data,
            "on_part_end": self._end_part,
            "on_end": self._on_end,
        }
        try:
            self._parser: Any = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise self._malformed() from error

    def write(self, data: bytes) -> None:
        """Takes a part of the body.

        Raises:
            RoomError: It is malformed, or the disk is full.
        """
        try:
            self._parser.write(data)
        except self._broken as error:
            raise self._malformed() from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RoomError(
                "The disk is full: the upload was not kept.",
                status=507,
                hint="Open the file by its path, which copies nothing: agenticlu read FILE",
            ) from error

    def finish(self) -> Upload:
        """Returns what came.

        Raises:
            RoomError: It broke off, or there was no file.
        """
        if not self._is_whole:
            raise self._malformed()
        if not self._found.files:
            raise RoomError("The form holds no file.", hint="Send one in a field named 'files'.")
        return self._found

    def close(self) -> None:
        """Closes what is open."""
        if self._file is not None:
            self._file.close()

    def _malformed(self) -> RoomError:
        return RoomError("The upload broke off or is malformed.", hint="Send it once more.")

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value.strip()
        self._name = self._value = b""

    def _begin_part(self) -> None:
        _, options = self._options(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        given = options.get(b"filename")
        self._text.clear()
        if given is None:
            self._field = name
            return
        self._field = None
        if len(self._found.files) >= MOST_FILES:
            raise RoomError(
                f"The upload holds more than {MOST_FILES:,} files, the most that are taken.",
                status=413,
                hint="Open the folder by its path: agenticlu read FOLDER",
            )
        path = self._folder / str(len(self._found.files))
        self._file = open(path, "wb", opener=_private)  # noqa: SIM115
        self._found.files.append((given.decode("utf-8", "replace"), path))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])
        elif len(self._text) + end - start > MOST_FIELD_BYTES:
            raise RoomError(f"A field of the form has more than {MOST_FIELD_BYTES:,} bytes.")
        else:
            self._text += data[start:end]

    def _end_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._field is not None:
            self._found.fields[self._field] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._is_whole = True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


def _missing() -> MissingDependencyError:
    return missing_dependency("python-multipart", "read")


def lay_out(upload: Upload, folder: Path) -> None:
    """Moves the files of an upload below a folder, under their own names, made safe and unlike."""
    for name, path in upload.files:
        *above, last = safe_parts(name)
        where = folder.joinpath(*above)
        # A file may stand where another's folder should be.
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = where if where.is_dir() else folder
        target, number = where / last, 1
        while os.path.lexists(target):
            number += 1
            target = where / f"{Path(last).stem} ({number}){Path(last).suffix}"
        path.rename(target)
