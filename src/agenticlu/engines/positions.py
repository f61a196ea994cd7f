"""How many tokens a model takes, read from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POSITION_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "model_max_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "context_length",
)
"""Names of the longest sequence; the first that a configuration has counts."""
TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Parts of a configuration of several models that describe the one for text."""


def find_window(config: Mapping[str, Any]) -> int | None:
    """Returns the tokens that prompt and reply may take together; None where nothing says.

    A sliding window is no limit: layers that look back a few tokens only still read on. Positions
    that are stretched count where the configuration gives the length before: YaRN multiplies it.

    >>> find_window({"max_position_embeddings": 32768, "sliding_window": 4096})
    32768
    >>> find_window({"text_config": {"max_position_embeddings": 131072}})
    131072
    >>> find_window({"max_position_embeddings": 32768, "rope_scaling":
    ...     {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}})
    131072
    """
    for key in TEXT_KEYS:
        if isinstance(inner := config.get(key), Mapping) and (found := find_window(inner)):
            return found
    known = next((one for key in POSITION_KEYS if (one := _read_count(config.get(key)))), None)
    if known is None:
        return None
    return max([known, *(_stretched(rope, known) for rope in _find_ropes(config))])


def _find_ropes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the settings of rotary positions; some models have one set a kind of layer."""
    found: list[Mapping[str, Any]] = []
    for key in ("rope_parameters", "rope_scaling"):
        value = config.get(key)
        if isinstance(value, Mapping):
            found += [value, *(one for one in value.values() if isinstance(one, Mapping))]
    return found


def _stretched(rope: Mapping[str, Any], positions: int) -> int:
    kind = rope.get("rope_type") or rope.get("type")
    factor = rope.get("factor")
    original = _read_count(rope.get("original_max_position_embeddings"))
    if not isinstance(factor, int | float) or isinstance(factor, bool):
        return 0
    if kind == "yarn" and original is not None:
        return int(factor * original)
    if kind == "dynamic" and original is None:
        return int(factor * positions)
    return 0


def _read_count(value: Any) -> int | None:
    # Some files say "no limit" with a number beyond any memory.
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
        return value
    return None
