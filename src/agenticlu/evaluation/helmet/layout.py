"""How HELMET puts a prompt together: passages, demonstrations, user part, answer label."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from agenticlu.core.errors import ConfigError, did_you_mean
from agenticlu.core.records import Record
from agenticlu.evaluation.items import Prompt

Row = Mapping[str, Any]


class Template(Record):
    """The wording of one family of tasks; fields as described in `templates.toml`."""

    user: str = ""
    separator: str = "\n"
    label: str = "Answer:"
    ask: str = "{question}"
    switch: str = ""
    instruction: str = ""


@functools.cache
def load_templates(path: str | None = None) -> Mapping[str, Template]:
    """Returns the bundled templates, with those of a TOML file put over them key by key.

    Raises:
        ConfigError: The file is absent or no TOML, has an unknown table or key, or a template of it
            lacks a field that is filled in, or names another.
    """
    bundled = importlib.resources.files(__package__).joinpath("templates.toml")
    tables: dict[str, dict[str, str]] = tomllib.loads(bundled.read_text(encoding="utf-8"))
    if path is not None:
        for name, given in _read_templates(path).items():
            checked = _checked(path, name, given, tables)
            tables[name] = {**tables[name], **checked}
    return {name: Template.model_validate(_trim(table)) for name, table in tables.items()}


def _trim(table: Mapping[str, str]) -> dict[str, str]:
    """Drops the line end that opens a multi-line string in TOML (TOML itself drops one)."""
    return {
        key: value.removeprefix("\n") if key == "user" else value for key, value in table.items()
    }


def _read_templates(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the templates {path!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The templates {path!r} are not UTF-8 text.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path!r} is not TOML: {error}.") from error


def _checked(
    path: str, name: str, given: object, tables: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Returns a table of a file of templates, after checking its keys and fields."""
    if name not in tables:
        raise ConfigError(
            f"{path!r}: there is no template {name!r}. Templates: {', '.join(tables)}.",
            hint=did_you_mean(name, tables),
        )
    if not isinstance(given, dict):
        raise ConfigError(f"{path!r}: {name!r} must be a table such as [{name}].")
    bundled = tables[name]
    every = {field for text in bundled.values() for field in _fields_of(text)}
    for key, value in given.items():
        place = f"{path!r}, [{name}]"
        if key not in bundled:
            raise ConfigError(
                f"{place}: there is no key {key!r}. Keys: {', '.join(bundled)}.",
                hint=did_you_mean(key, bundled),
            )
        if not isinstance(value, str):
            raise ConfigError(f"{place}: {key} must be a text in quotes, not {value!r}.")
        if key in ("user", "label", "ask"):
            allowed = every if key == "user" else every - {"context"}
            needed = set(_fields_of(bundled[key])) - {"type_needle_v", "num_v"}
            _check_fields(f"{place}: {key}", value, allowed, needed if key == "user" else set())
    return given


def _check_fields(place: str, text: str, allowed: set[str], needed: set[str]) -> None:
    try:
        found = _fields_of(text)
    except ValueError as error:
        raise ConfigError(
            f"{place} cannot be filled in: {error}.", hint="Double a literal brace: {{ or }}."
        ) from error
    shown = ", ".join(f"{{{field}}}" for field in sorted(allowed))
    for field in found:
        if field not in allowed:
            raise ConfigError(
                f"{place} has the unknown field {{{field}}}. Fields: {shown}.",
                hint=did_you_mean(field, allowed) or "Double a literal brace: {{ or }}.",
            )
    if lacking := sorted(needed - set(found)):
        names = ", ".join(f"{{{field}}}" for field in lacking)
        raise ConfigError(
            f"{place} lacks {names}, so that part of the prompt would be left out.",
            hint="Put it where it belongs; it may be empty when the prompt is made.",
        )


def _fields_of(text: str) -> list[str]:
    """Returns the fields in braces of a text, in order.

    >>> _fields_of("{demos}{context} with {{braces}}")
    ['demos', 'context']
    """
    return [field for _, field, _, _ in Formatter().parse(text) if field is not None]


def render_kilt(passages: Iterable[Row]) -> str:
    """Returns titled passages, a blank line between them."""
    return "\n\n".join(f"Document (Title: {p['title']}): {p['text']}" for p in passages)


def render_msmarco(passages: Iterable[Row], *, titled: bool) -> str:
    """Returns passages with their ids; with titles where the question's own passages have them."""
    return "\n\n".join(
        f"[ID: {p['id']}] Document (Title: {p['title']}): {p['text']}"
        if titled
        else f"[ID: {p['id']}] Document: {p['text']}"
        for p in passages
    )


def ranking_of(passages: Sequence[Row]) -> str:
    """Returns the ids by label, highest first, in file order among equals."""
    return " > ".join(p["id"] for p in sorted(passages, key=lambda p: p["label"], reverse=True))


def block(demos: Sequence[str], switch: str) -> str:
    """Returns demonstrations of long documents, opened and closed; empty for none."""
    if not demos:
        return ""
    return "For example:\n\n" + "\n\n".join(demos) + f"\n\n{switch}\n\n"


def build_prompt(template: Template, row: Row, *, chat: bool) -> Prompt:
    """Returns the prompt of a row; its context can still be cut and the prompt rendered again."""
    fields = {key: value for key, value in row.items() if key != "context"}
    return Prompt(
        template=template.user,
        fields=fields,
        context=row["context"],
        label=template.label.format(**row),
        separator=template.separator,
        chat=chat,
    )
