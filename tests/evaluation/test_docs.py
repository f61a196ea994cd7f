"""Every command that the page on evaluation prints can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from agenticlu.cli import group
from agenticlu.cli.eval import EvalSettings, command
from agenticlu.evaluation.methods import METHODS, find_method
from agenticlu.evaluation.tasks import TASKS, find_task

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.strip() for block in BLOCKS for line in block.splitlines() if "agenticlu " in line[:14]
]


def parse(words: list[str]) -> list[click.Context]:
    """Parses a command line down to its last subcommand, without running it."""
    current: click.Command = group
    contexts: list[click.Context] = []
    name = words[0]
    rest = words[1:]
    while True:
        context = current.make_context(name, rest, parent=contexts[-1] if contexts else None)
        contexts.append(context)
        left = [*context._protected_args, *context.args]
        if not isinstance(current, click.Group) or not left:
            return contexts
        found, following, rest = current.resolve_command(context, left)
        assert following is not None
        name, current = found or "", following


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses_and_names_exist(line: str) -> None:
    contexts = parse(shlex.split(line))
    for context in contexts:
        if context.command is command:
            for task in context.params["task"] or ():
                find_task(task)
            for method in context.params["methods"] or ():
                find_method(method)


def test_the_parser_would_notice_a_wrong_option() -> None:
    with pytest.raises(click.UsageError):
        parse(shlex.split("agenticlu eval --no-such-option"))


def test_every_method_is_on_the_page() -> None:
    assert all(f"`{name}`" in TEXT for name in METHODS)


def test_every_setting_has_a_flag() -> None:
    flags = {param.name for param in command.params}
    assert set(EvalSettings.model_fields) <= flags


def test_every_task_module_exists() -> None:
    from importlib import import_module

    for module in set(TASKS.values()):
        assert callable(import_module(f"agenticlu.evaluation.tasks.{module}").load)
