"""How HELMET puts a prompt together: passages, demonstrations, user part, answer label."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agenticlu.errors import ConfigError, did_you_mean
from agenticlu.evaluation.items import Prompt
from agenticlu.records import Record

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
        ConfigError: The file is absent, no TOML, or has an unknown table or key.
    """
    bundled = importlib.resources.files(__package__).joinpath("templates.toml")
    tables: dict[str, dict[str, Any]] = tomllib.loads(bundled.read_text(encoding="utf-8"))
    if path is not None:
        _put_over(tables, path)
    try:
        return {name: Template.model_validate(_trim(table)) for name, table in tables.items()}
    except ValidationError as error:
        raise ConfigError(f"{path or 'templates.toml'} holds no templates: {error}") from error


def _trim(table: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the line end that opens a multi-line string in TOML (TOML itself drops one)."""
    return {
        key: value.removeprefix("\n") if key == "user" else value for key, value in table.items()
    }


def _put_over(tables: dict[str, dict[str, Any]], path: str) -> None:
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the templates {path!r}: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path!r} is not TOML: {error}.") from error
    for name, table in given.items():
        if name not in tables:
            raise ConfigError(
                f"{path!r}: there is no template {name!r}. Templates: {', '.join(tables)}.",
                hint=did_you_mean(name, tables),
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{path!r}: {name!r} must be a table such as [{name}].")
        for key in table:
            if key not in Template.model_fields:
                raise ConfigError(
                    f"{path!r}, [{name}]: there is no key {key!r}. Keys: "
                    f"{', '.join(Template.model_fields)}.",
                    hint=did_you_mean(key, Template.model_fields),
                )
        tables[name] |= table


def render_kilt(passages: Iterable[Row]) -> str:
    """Returns titled passages, a blank line between them."""
    return "\n\n".join(f"Document (Title: {p['title']}): {p['text']}" for p in passages)


def render_msmarco(passages: Sequence[Row]) -> str:
    """Returns passages with their ids; with titles if the first one has a title."""
    titled = bool(passages) and "title" in passages[0]
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
