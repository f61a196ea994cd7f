"""Every option of every command, and a value for each that is not its default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import TypeAdapter, ValidationError

from agenticlu.cli import group
from agenticlu.cli.options import SettingsCommand
from agenticlu.core.settings import Setting, settings_of


def walk(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from walk(inner, *words, name)
    else:
        yield words, command


ALL = dict(walk(group))
CONVERTED = {words: one for words, one in ALL.items() if isinstance(one, SettingsCommand)}
OPTIONS = [
    (words, setting)
    for words, command in CONVERTED.items()
    for key, setting in settings_of(command.settings).items()
    if key not in command.without
]


def candidates(annotation: Any) -> Iterator[object]:
    """Values to try for a type."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from candidates(part)
    yield from {bool: [True, False], int: [3, 9, 1, 1024], float: [0.5, 0.25, 2.5]}.get(
        annotation, []
    )
    if annotation in (str, Path):
        yield from ("some-text", "1/4", "0.5/x", "rouge-l")


def other_value(setting: Setting) -> Any:
    """A value that is not the default, as JSON and in the form that --show-config prints."""
    adapter: TypeAdapter[Any] = TypeAdapter(setting.annotation)
    tried = list(candidates(setting.annotation))
    wrapped: list[Any] = [[one] for one in tried] if setting.is_list else tried
    if setting.is_table:
        wrapped = [{"answer": 7}]
    for value in wrapped:
        try:
            parsed = adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            continue
        if parsed != setting.default:
            return json.loads(adapter.dump_json(parsed))
    raise AssertionError(f"no value for {setting.key}: {setting.annotation}")


def as_words(setting: Setting, value: Any) -> list[str]:
    flags = [name for name in setting.spelling.flags if name.startswith("--")]
    flag = flags[0] if flags else f"--{setting.key.replace('_', '-')}"
    if isinstance(value, bool):
        on, _, off = flag.partition("/")
        return [on if value else (off or f"--no-{on[2:]}")]
    if isinstance(value, dict):
        return [flag, ",".join(f"{name}={one}" for name, one in value.items())]
    return [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {as_toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)
