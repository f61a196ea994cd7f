"""Reference log-probabilities of DPO: computed once, kept on disk, found again by hash.

A store is a folder per reference model (hash of its weights, adapter and dtype) holding append-only
files of records: digest of ids and targets (16 bytes), number of values, bytes per value, values.
Another grouping, batch or set of pairs finds the same records; changed ids, weights or dtype
cannot. A torn last record is ignored.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HEAD = struct.Struct("<16sIB")
Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def hash_model(folder_or_name: str, *parts: str) -> str:
    """Returns a hash of a model folder's weights and configuration, and of further parts."""
    digest = hashlib.blake2b(digest_size=16)
    folder = Path(folder_or_name)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in (".safetensors", ".bin") or path.name in (
                "config.json", "adapter_config.json",
            ):  # fmt: skip
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 22):
                        digest.update(block)
    else:
        digest.update(folder_or_name.encode())
    for part in parts:
        digest.update(b"|" + part.encode())
    return digest.hexdigest()


class ReferenceStore:
    """Log-probabilities per trace and token under one reference."""

    def __init__(self, folder: Path, model_hash: str, *, rank: int = 0) -> None:
        self.folder = folder / model_hash
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mine = self.folder / f"rank-{rank}.bin"
        self._values: dict[bytes, Values] = {}
        self.hits = 0
        self.computed = 0
        self.reload()

    def reload(self) -> None:
        """Reads the records of all ranks."""
        for path in sorted(self.folder.glob("*.bin")):
            data = path.read_bytes()
            at = 0
            while at + _HEAD.size <= len(data):
                digest, count, width = _HEAD.unpack_from(data, at)
                end = at + _HEAD.size + count * width
                if end > len(data):
                    break
                dtype = np.float64 if width == 8 else np.float32
                values: Values = np.frombuffer(data[at + _HEAD.size : end], dtype)  # type: ignore[assignment]
                self._values[digest] = values
                at = end
            if path == self._mine and at < len(data):
                with path.open("r+b") as file:
                    file.truncate(at)

    def digests(self) -> Iterable[bytes]:
        """Returns the digests of the stored traces."""
        return self._values.keys()

    def missing(self, digests: Iterable[bytes]) -> list[int]:
        """Returns the places of the traces that are not stored."""
        return [place for place, digest in enumerate(digests) if digest not in self._values]

    def add(self, records: Iterable[tuple[bytes, Values]]) -> None:
        """Appends records."""
        with self._mine.open("ab") as file:
            for digest, values in records:
                if digest in self._values:
                    continue
                file.write(_HEAD.pack(digest, len(values), values.dtype.itemsize))
                file.write(values.tobytes())
                self._values[digest] = values
                self.computed += 1
            file.flush()

    def sums(self, digests: Iterable[bytes]) -> npt.NDArray[np.float64]:
        """Returns the sum over each trace's targets."""
        found = [self._values[digest] for digest in digests]
        self.hits += len(found)
        return np.array([values.sum(dtype=np.float64) for values in found])

    def __len__(self) -> int:
        return len(self._values)
