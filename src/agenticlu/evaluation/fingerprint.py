"""Tells one set of weights from another, so that results of old weights are not taken for new."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agenticlu.core.records import content_id
from agenticlu.documents.tokens import Tokenizer

WHOLE_BYTES = 64 * 1024 * 1024
"""Files up to this size are hashed whole; of larger ones, both ends and the size."""
END_BYTES = 1024 * 1024
_PROBE = (
    "On the 17th of March 2026, at 09:45, Ms. O'Neill-Žižková paid €1,234.50 (about 3.1% more) "
    "for unbelievably heterogeneous antidisestablishmentarianism; nobody re-read it.\n\n"
    "\tdef f(x_1: int) -> str:\n        return f'{x_1!r}'  # naïve café, Straße, Привет, 東京 🙂\n"
    "https://example.org/a?b=c&d=0x1F wanders through the quiet, quieter, quietest neighbourhood."
)
"""Text of many kinds: tokenizers that cut it alike are taken for one."""


def fingerprint(folder: str | Path) -> str:
    """Returns a hash of a local model's weights and configuration.

    Args:
        folder: Of a model in Hugging Face layout.
    """
    digest = hashlib.sha256()
    root = Path(folder)
    names = ("*.safetensors", "*.bin", "config.json", "generation_config.json", "*.jinja")
    files = sorted({path for pattern in names for path in root.glob(pattern)})
    for path in [*files, *sorted(root.glob("tokenizer*.json"))]:
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


def tokenizer_key(tokenizer: Tokenizer) -> str:
    """Returns a hash of how a tokenizer cuts text: a copy in another folder has the same."""
    return content_id(*(f"{start}-{end}" for start, end in tokenizer.spans(_PROBE)))
