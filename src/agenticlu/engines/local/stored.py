"""Tensors in safetensors files with checksums, written without a second copy in memory.

The format is that of the library safetensors, which reads them; its own writer wants all tensors
whole and contiguous at once, beside those that the cache holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

FORMAT = "agenticlu prefix 1"
"""Changes whenever older files must not be read."""
DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Data types as the format calls them."""
BLOCK_WORDS = 1 << 16
"""Words of 8 bytes that are added up for a checksum."""
BLOCKS_AT_ONCE = 64
DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)
"""Errors from reading a file that is cut, altered or another's."""
Parts = Sequence[Tensor]
"""A tensor in parts along its axis 1; one part is the tensor."""


@dataclass(frozen=True)
class Exported:
    """What a decoder keeps of a prefix, ready for a file."""

    tensors: Mapping[str, Parts]
    layout: str = "{}"
    """JSON: how the tensors belong together."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(part.nbytes for parts in self.tensors.values() for part in parts)


def checksum(tensor: Tensor) -> str:
    """Returns a checksum of a tensor's bytes, data type and shape; it runs at the memory's speed.

    Sums of blocks, each word by a weight of its place, hashed: it finds damage, and values that
    differ or have changed places; it is no seal against forgery.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()
    raw = flat.view(torch.uint8)
    whole = raw.shape[0] // (8 * BLOCK_WORDS) * BLOCK_WORDS * 8
    blocks = raw[:whole].view(torch.int64).view(-1, BLOCK_WORDS)
    # Odd weights lose no bit of a word; a few blocks at a time need no second copy of the tensor.
    places = torch.arange(1, 2 * BLOCK_WORDS, 2, dtype=torch.int64, device=raw.device)
    sums = torch.zeros(blocks.shape[0], dtype=torch.int64, device=raw.device)
    for first in range(0, blocks.shape[0], BLOCKS_AT_ONCE):
        some = slice(first, first + BLOCKS_AT_ONCE)
        sums[some] = (blocks[some] * places).sum(1)
    said = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    digest = hashlib.sha256(said)
    digest.update(sums.cpu().numpy().tobytes())
    digest.update(raw[whole:].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_tensors(file: BinaryIO, exported: Exported, facts: Mapping[str, str]) -> None:
    """Writes tensors with their checksums, one after another.

    Args:
        file: Empty.
        exported: The tensors.
        facts: What they belong to.
    """
    sums = dict.fromkeys(exported.tensors, "0" * 16)
    file.write(_header(exported, facts, sums))
    for name, parts in exported.tensors.items():
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
        whole = whole.detach().cpu().contiguous()
        sums[name] = checksum(whole)
        whole.reshape(-1).view(torch.uint8).numpy().tofile(file)
    file.seek(0)
    file.write(_header(exported, facts, sums))  # as long as before


def _header(exported: Exported, facts: Mapping[str, str], sums: Mapping[str, str]) -> bytes:
    said = {"format": FORMAT, "layout": exported.layout, "sums": json.dumps(sums), **facts}
    header: dict[str, object] = {"__metadata__": said}
    at = 0
    for name, parts in exported.tensors.items():
        shape = list(parts[0].shape)
        if len(parts) > 1:
            shape[1] = sum(part.shape[1] for part in parts)
        end = at + sum(part.nbytes for part in parts)
        kind = DTYPE_NAMES[parts[0].dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(path: Path, facts: Mapping[str, str]) -> Exported:
    """Reads what `write_tensors` wrote.

    Args:
        path: The file.
        facts: What the tensors must belong to.

    Raises:
        ValueError: They belong to something else, or are damaged.
        OSError, SafetensorError: The file cannot be read, or is none of this format.
    """
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
        for name, value in {"format": FORMAT, **facts}.items():
            if said.get(name) != value:
                raise ValueError(f"its {name} is another")
        sums = json.loads(said["sums"])
        if not isinstance(sums, dict) or set(sums) != set(file.keys()):
            raise ValueError("a tensor is missing")
        tensors = {}
        for name, wanted in sums.items():
            tensor = file.get_tensor(name).clone()  # apart from the file, which may go
            if checksum(tensor) != wanted:
                raise ValueError("a checksum does not agree")
            tensors[name] = (tensor,)
    return Exported(tensors, said["layout"])
