"""Reads a server's list of models, in the forms that servers write it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agenticlu.core.records import without_lone_surrogates
from agenticlu.engines.protocol import Json, read_count

WINDOW_FIELDS = (
    "loaded_context_length",
    "max_model_len",
    "context_length",
    "context_window",
    "max_context_length",
    "n_ctx",
)
"""Names of a model's window in lists of models; what is loaded comes before what is possible."""


@dataclass(frozen=True)
class ServedModel:
    """A model as a server lists it."""

    id: str
    """Name under which it is served."""
    weights: str = ""
    """Hash of its weights, as `agenticlu serve` reports; empty if the server does not."""
    root: str = ""
    """Folder or hub id that it was loaded from (vLLM's field); empty if unknown."""
    piece_tokens: int | None = None
    """Suitable size of a piece, as `agenticlu serve` reports."""
    context_tokens: int | None = None
    """Longest prompt plus completion."""


def parse_model_list(data: object) -> dict[str, Json] | None:
    """Returns the entries of a model list by name; None if this is not a model list.

    Servers write it as an object with the list under `data` or `models`, or as the bare list; its
    entries as objects or as names.

    >>> parse_model_list({"data": [{"id": "mill-8b"}]})
    {'mill-8b': {'id': 'mill-8b'}}
    >>> parse_model_list(["mill-8b"])
    {'mill-8b': {}}
    """
    if isinstance(data, dict):
        data = next((data[name] for name in ("data", "models") if data.get(name)), data.get("data"))
    if not isinstance(data, list):
        return None
    found: dict[str, Json] = {}
    for entry in data:
        fields = entry if isinstance(entry, dict) else {}
        names = (fields.get(name) for name in ("id", "name", "model"))
        name = entry if isinstance(entry, str) else next(filter(None, names), None)
        if isinstance(name, str) and name:
            found[without_lone_surrogates(name)] = fields
    return found


def parse_served_model(name: str, entry: Json) -> ServedModel:
    """Reads one entry of a model list."""

    def text(field: str) -> str:
        value = entry.get(field)
        return without_lone_surrogates(value) if isinstance(value, str) else ""

    return ServedModel(
        id=name,
        weights=text("weights"),
        root=text("root"),
        piece_tokens=read_count(entry.get("piece_tokens")) or None,
        context_tokens=window_of(entry),
    )


def window_of(entry: Mapping[str, Any]) -> int | None:
    """Reads a model's window from its entry in the model list, under the names servers use."""
    for source in (entry, entry.get("meta"), entry.get("top_provider")):
        for name in WINDOW_FIELDS:
            if isinstance(source, dict) and (tokens := read_count(source.get(name))):
                return tokens
    return None
