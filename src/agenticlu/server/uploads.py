"""Files that clients upload, kept in a folder until they are deleted."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from agenticlu.core.errors import ConfigError
from agenticlu.core.files import write_atomically
from agenticlu.core.records import Record, without_lone_surrogates
from agenticlu.server.limits import MIB, RequestError

MOST_NAME_CHARACTERS = 200
MOST_FILES = 10_000
PURPOSES = ("user_data", "assistants", "vision", "batch", "fine-tune", "evals")
"""What clients may say that a file is for; here all are read alike."""
_ID = re.compile(r"file-[0-9a-f]{32}")


class UploadedFile(Record):
    """What is known of an uploaded file."""

    id: str
    filename: str
    """As the client called it, without folders."""
    purpose: str
    bytes: int
    created_at: int
    """Seconds since 1970."""
    sha256: str
    """Of its bytes."""

    @property
    def entry(self) -> dict[str, object]:
        """The file in OpenAI's form."""
        return {
            **self.model_dump(exclude={"sha256"}),
            "object": "file",
            "status": "processed",
            "expires_at": None,
            "status_details": None,
        }


class FileStore:
    """Uploaded files in a folder: each with its bytes and a line about it.

    Args:
        folder: Where they stay; None takes a folder of its own that goes when the store is closed.
        file_bytes: Most of one file.
        total_bytes: Most of all.

    Raises:
        ConfigError: The folder cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        file_bytes: int = 128 * MIB,
        total_bytes: int = 2048 * MIB,
    ) -> None:
        self.file_bytes, self.total_bytes = file_bytes, total_bytes
        self._arriving = 0
        """Bytes of uploads that are not kept yet."""
        self._is_own = folder is None
        self._lock = threading.Lock()
        try:
            if folder is None:
                folder = Path(tempfile.mkdtemp(prefix="agenticlu-files-"))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder = folder
            self._files = {one.id: one for one in self._read_all()}
            self._held = sum(one.bytes for one in self._files.values())
        except OSError as error:
            raise ConfigError(
                f"Files cannot be kept in {str(folder)!r}: {error.strerror or error}.",
                hint="Name another folder: --files FOLDER; without it a temporary one is taken.",
            ) from error

    def add(self, data: BinaryIO, filename: str, purpose: str) -> UploadedFile:
        """Keeps a file.

        Raises:
            RequestError: It is too large, or there is no room for it.
        """
        number = f"file-{secrets.token_hex(16)}"
        path = self.folder / f"{number}.bin"
        digest = hashlib.sha256()
        try:
            with path.open("xb") as target:
                path.chmod(0o600)
                while part := data.read(MIB):
                    self.check_size(target.tell() + len(part))
                    target.write(part)
                    digest.update(part)
                size = target.tell()
            file = UploadedFile(
                id=number,
                filename=clean_name(filename),
                purpose=purpose,
                bytes=size,
                created_at=int(time.time()),
                sha256=digest.hexdigest(),
            )
            with self._lock:
                self._check_room(size)
                if len(self._files) >= MOST_FILES:
                    raise RequestError(
                        f"{MOST_FILES:,} files are kept, the most that there may be: delete some.",
                        "file",
                        status=413,
                        code="storage_limit_exceeded",
                    )
                write_atomically(self._about(number), json.dumps(file.model_dump()))
                self._about(number).chmod(0o600)
                self._files[number] = file
                self._held += size
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise RequestError(
                    f"The file cannot be kept: {error.strerror or error}.",
                    status=500,
                    kind="server_error",
                ) from error
            raise
        return file

    @contextmanager
    def arriving(self) -> Iterator[Callable[[int], None]]:
        """Yields what is told of the bytes of an upload as they come; they take room until it ends.

        Raises:
            RequestError: There is no room for all that is coming in.
        """
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            with self._lock:
                taken += num_bytes
                self._arriving += num_bytes
                self._check_room(self._arriving)

        try:
            yield take
        finally:
            with self._lock:
                self._arriving -= taken

    def _check_room(self, num_bytes: int) -> None:
        if self._held + num_bytes > self.total_bytes:
            raise RequestError(
                f"Uploaded files may take {self.total_bytes / MIB:,.4g} MiB together"
                f" (--max-files-mib), and {self._held / MIB:,.4g} MiB are taken: delete some.",
                "file",
                status=413,
                code="storage_limit_exceeded",
            )

    def check_size(self, num_bytes: int) -> None:
        """Raises RequestError for a file that is too large."""
        if num_bytes > self.file_bytes:
            raise RequestError(
                f"The file has more than {self.file_bytes / MIB:,.4g} MiB, the most that this"
                " server takes (--max-file-mib).",
                "file",
                status=413,
                code="file_too_large",
            )

    def every(self) -> list[UploadedFile]:
        """Returns all files, the newest first."""
        with self._lock:
            files = list(self._files.values())
        return sorted(files, key=lambda one: (-one.created_at, one.id))

    def get(self, number: str, param: str | None = None) -> UploadedFile:
        """Returns what is known of a file.

        Raises:
            RequestError: There is none of this id.
        """
        file = self._files.get(number)
        if file is None:
            raise RequestError(
                f"There is no file {number[:60]!r}: upload it with POST /v1/files.",
                param,
                status=404,
                code="file_not_found",
            )
        return file

    def read(self, number: str, param: str | None = None) -> bytes:
        """Returns the bytes of a file.

        Raises:
            RequestError: There is none of this id, or it is gone.
        """
        self.get(number, param)
        try:
            return self.path(number).read_bytes()
        except OSError as error:
            raise RequestError(
                f"The file {number} cannot be read any more.",
                param,
                status=404,
                code="file_not_found",
            ) from error

    def path(self, number: str) -> Path:
        """Returns where the bytes of a file lie."""
        return self.folder / f"{number}.bin"

    def delete(self, number: str) -> None:
        """Deletes a file.

        Raises:
            RequestError: There is none of this id.
        """
        self.get(number)
        with self._lock:
            gone = self._files.pop(number, None)
            self._held -= 0 if gone is None else gone.bytes
            self._about(number).unlink(missing_ok=True)
            self.path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Deletes the folder, where it is the store's own."""
        if self._is_own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _about(self, number: str) -> Path:
        return self.folder / f"{number}.json"

    def _read_all(self) -> list[UploadedFile]:
        """Reads what an earlier server kept; what is damaged is no file."""
        found = []
        for path in self.folder.glob("file-*.json"):
            try:
                file = UploadedFile.model_validate_json(path.read_bytes())
            except (ValidationError, OSError):
                continue
            if _ID.fullmatch(file.id) and path.stem == file.id and self.path(file.id).is_file():
                found.append(file)
        return found


def clean_name(given: str) -> str:
    r"""Returns a file's name without folders and control characters.

    >>> clean_name("../../etc/pass\nwd"), clean_name("C:\\Reports\\may.pdf"), clean_name("/")
    ('passwd', 'may.pdf', 'file')
    """
    last = without_lone_surrogates(given).replace("\\", "/").rstrip("/").rpartition("/")[2]
    kept = "".join(char for char in last if unicodedata.category(char)[0] != "C").strip()
    stem, dot, ending = kept.rpartition(".")
    if len(kept) > MOST_NAME_CHARACTERS:
        kept = stem[: MOST_NAME_CHARACTERS - 20] + dot + ending[:19]
    return "file" if kept in ("", ".", "..") else kept
