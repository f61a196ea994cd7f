"""How much of the machine one document may take: its size, and the memory and time of reading it.

Documents come from anywhere, so a small file may be made to cost gigabytes or hours. The limits
are variables of the environment, which belongs to the user, and no keys of a project's file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import BinaryIO

from agenticlu.core.errors import ConfigError, DocumentError

MEBIBYTE = 1 << 20
PREFIX = "AGENTICLU_DOCUMENT_"


@dataclass(frozen=True)
class DocumentLimits:
    """What one document may take.

    >>> DocumentLimits.read({"AGENTICLU_DOCUMENT_SECONDS": "60"}).seconds
    60
    """

    mib: int = 256
    """Largest file, and the most that one may unpack to, in MiB."""
    memory_mib: int = 900
    """Address space of the process that reads a format other than plain text, in MiB; the size of
    the file is added twice. 0: no limit."""
    seconds: int = 6
    """Processor time of reading, in seconds; one is added for each MiB of the file."""

    @property
    def most_bytes(self) -> int:
        """Largest file in bytes."""
        return self.mib * MEBIBYTE

    def memory_bytes(self, size: int) -> int | None:
        """Returns the address space for reading a file of `size` bytes; None: no limit."""
        return self.memory_mib * MEBIBYTE + 2 * size if self.memory_mib else None

    def cpu_seconds(self, size: int) -> int:
        """Returns the processor time for reading a file of `size` bytes."""
        return self.seconds + size // MEBIBYTE

    def read_all(self, file: BinaryIO, name: str) -> bytes:
        """Reads a file to its end, which endless ones (devices, pipes) do not have.

        Raises:
            DocumentError: It is larger than the limit.
        """
        data = file.read(self.most_bytes + 1)
        if len(data) > self.most_bytes:
            raise DocumentError(
                f"{name} is larger than {self.mib} MiB.",
                hint=f"Take a part of it, or allow more: export {VARIABLES['mib']}={4 * self.mib}",
            )
        return data

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> DocumentLimits:
        """Reads the limits from the environment.

        Raises:
            ConfigError: A value that is no whole number, or out of range.
        """
        environ = os.environ if environ is None else environ
        given = {}
        for name, variable in VARIABLES.items():
            text = environ.get(variable, "").strip()
            if not text:
                continue
            least = 0 if name == "memory_mib" else 1
            if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) >= least):
                raise ConfigError(
                    f"{variable} must be a whole number of at least {least}, not {text[:40]!r}.",
                    hint=f"{variable}={getattr(cls, name)}",
                )
            given[name] = int(text)
        return cls(**given)


VARIABLES = {one.name: PREFIX + one.name.upper() for one in fields(DocumentLimits)}
"""Name of a limit -> variable of the environment."""


@dataclass(frozen=True)
class ReadingLimits:
    """What several documents that are read as one may take together."""

    max_files: int = 2000
    max_mib: int = 512
    """As they are on disk, and again of their text."""
    allow_private: bool = False
    """Whether an address may redirect into private networks."""
    ocr: str = ""
    """Languages in which Tesseract may recognise pages that are pictures; empty: not at all."""

    def check(self, *, num_files: int = 0, num_bytes: int = 0) -> None:
        """Counts files, or bytes.

        Raises:
            DocumentError: There are too many.
        """
        if num_files > self.max_files:
            raise DocumentError(
                f"These are more than {self.max_files:,} files, the most that are read as one.",
                hint=f"Name fewer of them, or raise the limit: --max-files {10 * self.max_files}",
            )
        if num_bytes > self.max_mib * MEBIBYTE:
            raise DocumentError(
                f"These files take more than {self.max_mib:,} MiB, the most that is read as one.",
                hint=f"Name fewer of them, or raise the limit: --max-mib {4 * self.max_mib}",
            )


@dataclass(frozen=True)
class PrefixLimits:
    """Where a model of this process keeps what it has read for later ones, and how much of it."""

    folder: str | None = None
    """None: the user's own (`$XDG_CACHE_HOME/agenticlu/prefixes`)."""
    gib: float = 8.0
    """GiB of all files together; 0 keeps nothing on disk."""
    memory_gib: float = 1.0
    """GiB of memory; 0 keeps nothing at all."""
