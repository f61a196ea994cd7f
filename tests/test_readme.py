"""The README tells the truth: its map is the source's, its commands parse."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from agenticlu.cli import group

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "skills").glob("*/SKILL.md"))


def render_map() -> str:
    """One line a folder: its path and the first line of its package's docstring."""
    lines = []
    source = ROOT / "src" / "agenticlu"
    for path in sorted(source.rglob("__init__.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        folder = path.parent.relative_to(source.parent).as_posix()
        lines.append(f"{folder + '/':30} {docstring.splitlines()[0]}")
    return "\n".join(lines)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL):
            for line in block.splitlines():
                bare = line.strip().removeprefix("$ ").split(" #")[0]
                if bare.startswith("agenticlu "):
                    found.append((page.name, bare))
    return found


def test_the_map_is_the_sources() -> None:
    block = re.search(r"<!-- map -->\n```text\n(.*?)\n```", README, re.DOTALL)
    assert block, "README has no map of the source"
    assert block.group(1) == render_map(), "run: python tests/test_readme.py"


def test_there_are_commands_to_parse() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_parses(page: str, line: str) -> None:
    name, *rest = shlex.split(line.split("|")[0].split(" > ")[0])
    current: click.Command = group
    parent: click.Context | None = None
    while True:
        parent = current.make_context(name, rest, parent=parent)
        left = [*parent._protected_args, *parent.args]
        if not isinstance(current, click.Group) or not left:
            return
        found, following, rest = current.resolve_command(parent, left)
        assert following is not None, f"{page}: {found}"
        name, current = found or "", following


if __name__ == "__main__":
    start = README.index("<!-- map -->\n```text\n") + len("<!-- map -->\n```text\n")
    end = README.index("\n```", start)
    (ROOT / "README.md").write_text(README[:start] + render_map() + README[end:], "utf-8")
