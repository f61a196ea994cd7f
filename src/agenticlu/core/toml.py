"""Reads TOML that people write: settings, wordings, templates."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError

MOST_BYTES = 1 << 20
"""Of a file of settings or wordings; it may come from anyone."""


def read_toml(path: Path) -> bytes:
    """Returns a file's bytes, of one that is too long so many that `parse_toml` refuses it.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def parse_toml(data: bytes, name: str) -> dict[str, Any]:
    """Returns the tables of a file in UTF-8, with or without a byte order mark.

    Args:
        data: The file.
        name: What it is, for messages.

    Raises:
        ConfigError: It is too long, not UTF-8, or not TOML; names the line.
    """
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{name} is longer than 1 MiB, as no such file is.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name} is not UTF-8: line {line} has the byte 0x{data[error.start]:02x}.",
            hint="Save it as UTF-8.",
        ) from error
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of integers of 5,000 digits
        raise ConfigError(f"{name} is not valid TOML: {error}.") from error
