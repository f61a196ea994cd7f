"""Reads gzip, bzip2, xz and Zstandard as plain bytes, told by how a file begins.

Nothing is unpacked as a whole, so a file that unpacks to a thousand times its size costs time, not
memory. All four may hold several members, as `cat` of several files makes them.
"""

from __future__ import annotations

import importlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from agenticlu.core.errors import missing_dependency

_READ_BYTES = 2048
"""Compressed bytes unpacked at a time; xz may write some 7,000 for each."""
_MEMORY_BYTES = 1 << 28
"""Most that xz and Zstandard may need to unpack."""
_NAMES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def open_plain(path: Path) -> BinaryIO:
    """Opens a file for reading, unpacked where it is compressed, whatever its name.

    Reading raises OSError where the compressed data is damaged or cut off.

    Raises:
        OSError: It cannot be opened.
        MissingDependencyError: It is in Zstandard, and zstandard is not installed.
    """
    file = path.open("rb")
    head = file.read(6)
    file.seek(0)
    name = next((name for start, name in _NAMES.items() if head.startswith(start)), None)
    if name is None:
        return file
    try:
        return io.BufferedReader(_Unpacked(file, name), 1 << 16)
    except BaseException:
        file.close()
        raise


def _find_decompressor(name: str) -> Callable[[], Any]:
    """Returns what begins to unpack a member.

    Raises:
        OSError: This Python was built without it.
        MissingDependencyError: zstandard is not installed.
    """
    if name == "gzip":
        return lambda: zlib.decompressobj(wbits=31)
    if name == "zstd":
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise missing_dependency("zstandard", "data") from error
        return zstandard.ZstdDecompressor(max_window_size=_MEMORY_BYTES).decompressobj
    try:
        module = importlib.import_module({"bzip2": "bz2", "xz": "lzma"}[name])
    except ModuleNotFoundError as error:
        raise OSError(f"this Python reads no {name}; unpack it first") from error
    if name == "xz":
        return lambda: module.LZMADecompressor(memlimit=_MEMORY_BYTES)
    return lambda: module.BZ2Decompressor()


class _Unpacked(io.RawIOBase):
    """The plain bytes of a compressed file.

    Args:
        file: Compressed; closed with this one.
        name: Of its compression.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._begin = _find_decompressor(name)
        self._member: Any = None
        """The one being unpacked; None between two."""
        self._rest = b""
        """Read from the file and not yet unpacked."""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer; returns the number of bytes, 0 at the end."""
        while not self._plain and self._feed():
            pass
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _feed(self) -> bool:
        """Unpacks some more; returns False at the end of the file."""
        data = read = self._rest or self._file.read(_READ_BYTES)
        self._rest = b""
        if self._member is None:
            data = read.lstrip(b"\0")  # tapes and some tools pad the end
            if not data:
                return bool(read)
            self._member = self._begin()
        elif not data:
            raise OSError(f"its {self._name} data is cut off")
        try:
            self._plain = memoryview(self._member.decompress(data))
        except Exception as error:  # each kind has its own, of no common class
            if isinstance(error, MemoryError):
                raise
            raise OSError(f"its {self._name} data is damaged ({error})") from error
        if self._member.eof:
            self._rest, self._member = self._member.unused_data, None
        return True

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        super().close()
