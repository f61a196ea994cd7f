"""Tells one set of weights from another, so that results of old weights are not taken for new."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

WHOLE_BYTES = 64 * 1024 * 1024
"""Files up to this size are hashed whole; of larger ones, both ends and the size."""
END_BYTES = 1024 * 1024


def fingerprint(folder: str | None, model: str | None = None, urls: Sequence[str] = ()) -> str:
    """Returns a hash of a local model's weights and configuration, or of a served model's name.

    Args:
        folder: Folder of a local model; None for a served one.
        model: Name of a served model.
        urls: Unused addresses: the same model at another address is the same model.
    """
    digest = hashlib.sha256()
    if folder is None or urls:
        digest.update((model or "").encode())
        return digest.hexdigest()[:16]
    root = Path(folder)
    names = ("*.safetensors", "*.bin", "config.json", "generation_config.json", "*.jinja")
    files = sorted({path for pattern in names for path in root.glob(pattern)})
    for path in [*files, *root.glob("tokenizer*.json")]:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read(END_BYTES))
                file.seek(-END_BYTES, 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]
