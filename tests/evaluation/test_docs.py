"""Every command that the page on evaluation prints can be typed."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from agenticlu.cli import group
from agenticlu.cli.eval.run import EvalSettings, run
from agenticlu.cli.options import _take_flags
from agenticlu.core.config import resolve
from agenticlu.core.settings import settings_of
from agenticlu.evaluation.config import EvaluationConfig
from agenticlu.evaluation.helmet import SPECS
from agenticlu.evaluation.helmet.results import build_args
from agenticlu.evaluation.methods import METHODS, find_method
from agenticlu.evaluation.predictions import OF_TASKS, SHARED
from agenticlu.evaluation.tasks import TASKS, require_task

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8")
MODEL_WINDOWS = {
    "meta-llama/Llama-3.1-8B-Instruct": 131072,
    "yzhuang/Llama-3.1-8B-Instruct-AgenticLU": 131072,
}
"""Positions in the models' own configurations."""
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
    for given in settings_given(line):
        for task in given["task"]:
            require_task(task)
        for method in given["methods"]:
            find_method(method)


def settings_given(line: str) -> list[dict[str, Any]]:
    """The settings of a line that evaluates; none of another line."""
    return [
        resolve(
            EvalSettings,
            section="eval",
            flags=_take_flags(settings_of(EvalSettings), context, dict(context.params)),
            project_file=None,
        ).values.model_dump()
        for context in parse(shlex.split(line))
        if context.command is run
    ]


def evaluations() -> list[dict[str, Any]]:
    """The settings of every evaluation on the page."""
    return [given for line in COMMANDS for given in settings_given(line)]


def servers() -> dict[str, tuple[str, int]]:
    """Address to model and window of every server that the page starts."""
    found = {}
    for line in (line.strip() for block in BLOCKS for line in block.splitlines()):
        if line.startswith("vllm serve "):
            words = shlex.split(line)
            values = dict(pairwise(words))
            address = f"http://localhost:{values['--port']}/v1"
            found[address] = (words[2], int(values["--max-model-len"]))
    return found


def test_numbers_fit_the_models_windows() -> None:
    """A server refuses to start beyond its model's window, and to read beyond its own."""
    assert len(servers()) == 2
    for model, window in servers().values():
        assert window <= MODEL_WINDOWS[model]
    asked = [given for given in evaluations() if given["base_url"]]
    assert len(asked) >= 5
    for given in asked:
        (address,) = given["base_url"]
        model, window = servers()[address]
        assert given["model"] == model
        assert max(given["lengths"]) <= window
        if max(given["lengths"]) + 4 * given["max_new_tokens"] > window:
            assert given["overlong"] in ("fit", "cut-end")


def test_commands_into_one_folder_can_be_compared() -> None:
    """What `agenticlu eval` would refuse to mix does not stand on the page as one folder."""
    by_folder: dict[Path, list[dict[str, Any]]] = {}
    for given in evaluations():
        if given["out"]:
            by_folder.setdefault(given["out"], []).append(given)
    assert max(map(len, by_folder.values())) >= 3
    names = [*(set(SHARED) & set(EvalSettings.model_fields)), *OF_TASKS, "as_published"]
    assert "temperature" in names
    for folder, several in by_folder.items():
        for name in names:
            assert len({given.get(name) for given in several}) == 1, (folder, name)


def test_result_files_on_the_page_are_named_as_they_would_be() -> None:
    names = set()
    for given in evaluations():
        for task in given["task"]:
            if task not in SPECS:
                continue
            for length in given["lengths"]:
                for method in given["methods"]:
                    own = method == "helmet"
                    config = EvaluationConfig(
                        limit=given["limit"],
                        max_tokens=given["max_new_tokens"],
                        options={"shots": given["shots"]},
                    )
                    chat = not own or SPECS[task].chat
                    args = build_args(task, length, config, method=method, chat=chat)
                    folder = given["label"] if own else f"{given['label']}-{method}"
                    names.add(f"{given['out']}/helmet/{folder}/{args.file_name}")
    mentioned = re.findall(r"\S+/helmet/\S+\.json", TEXT)
    assert len(mentioned) >= 4
    assert [name for name in mentioned if name not in names] == []


def test_the_parser_would_notice_a_wrong_option() -> None:
    with pytest.raises(click.UsageError):
        parse(shlex.split("agenticlu eval --no-such-option"))


def test_every_method_is_on_the_page() -> None:
    assert all(f"`{name}`" in TEXT for name in METHODS)


def test_every_setting_has_a_flag() -> None:
    flags = {param.name for param in run.params}
    assert set(EvalSettings.model_fields) <= flags


def test_every_task_has_a_loader() -> None:
    assert all(callable(TASKS.load(name)) for name in TASKS)
