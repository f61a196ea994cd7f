"""Reads a server's list of models, in the forms that servers write it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agenticlu.core.records import without_lone_surrogates
from agenticlu.engines.http.protocol import Json, read_count

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


def plain_models(served: Mapping[str, Json]) -> dict[str, Json]:
    """Returns the listed models without the name under which our own server reads files."""
    return {name: entry for name, entry in served.items() if "dialogue_over" not in entry}


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


def find_listed(name: str, listed: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Finds the model that people mean: (name to send, name in the list), or None.

    As listed; in another case; 'llama3.2' for Ollama's 'llama3.2:latest'; the last part of a
    listed path, '.gguf' aside; the folder or hub id that a listed model was loaded from; and a
    variant of a listed model, such as 'maker/one:nitro', which is sent as it was given.

    >>> find_listed("llama3.2", {"llama3.2:latest": {}, "qwen3:8b": {}})
    ('llama3.2:latest', 'llama3.2:latest')
    >>> find_listed("maker/one:nitro", {"maker/one": {}})
    ('maker/one:nitro', 'maker/one')
    """
    if name in listed:
        return name, name
    wanted = name.casefold()

    def last_part(one: str) -> str:
        return one.casefold().rstrip("/").rpartition("/")[2].removesuffix(".gguf")

    rules: tuple[Callable[[str], bool], ...] = (
        lambda one: one.casefold() == wanted,
        lambda one: one.casefold() == f"{wanted}:latest",
        lambda one: last_part(one) in (wanted, f"{wanted}:latest"),
        lambda one: listed[one].get("root") == name,
    )
    for rule in rules:
        found = [one for one in listed if rule(one)]
        if len(found) == 1:
            return found[0], found[0]
    base = name.rpartition(":")[0]
    return (name, base) if base in listed else None


def window_of(entry: Mapping[str, Any]) -> int | None:
    """Reads a model's window from its entry in the model list, under the names servers use."""
    for source in (entry, entry.get("meta"), entry.get("top_provider")):
        for name in WINDOW_FIELDS:
            if isinstance(source, dict) and (tokens := read_count(source.get(name))):
                return tokens
    return None
