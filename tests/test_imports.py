"""The direction of imports, and what the command line must not load."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenticlu.cli import COMMANDS

SRC = Path(__file__).resolve().parent.parent / "src"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core.errors", "core.secrets", "demo.lexicon"),
    ("core.printing", "core.compression", "core.tables"),
    ("__init__", "core.records", "core.files"),
    ("core", "search.store", "dialogue.thoughts"),
    ("dialogue.replies", "data.shapes"),
    (
        *("documents", "evaluation.scoring", "demo.world"),
        "dialogue.profiles",
    ),
    ("engines.base", "dialogue.gist", "data.context_files"),
    ("attention", "data.corpus"),
    (
        "engines.admission",
        "engines.clock",
        "engines.folding",
        "engines.positions",
        "engines.streaming",
        "engines.prefixes",
    ),
    ("engines.retry", "engines.verdicts"),
    ("engines.thinking",),
    ("engines.http", "engines.local"),
    ("engines",),
    ("dialogue.steps", "judges"),
    ("dialogue.run",),
    ("dialogue.guiding", "dialogue.stopping"),
    ("data.tree_view",),
    (
        *("search", "dialogue", "data.pairs", "data.traces", "training"),
        "evaluation",
    ),
    ("report", "server"),
    ("data", "judges.controls"),
    ("loop",),
    ("demo",),
    ("room", "mcp"),
    ("cli", "__main__"),
)
"""A module imports what stands in rows above its own, and from its own entry. The first rows have
no model in them; stages stand side by side in one row, so none may import another."""
ROW = {unit: row for row, units in enumerate(LAYERS) for unit in units}
HEAVY = ("torch", "transformers", "datasets", "ray", "aiohttp", "pyarrow", "matplotlib")


def unit_of(module: str) -> str | None:
    """The entry of the table that a module (without 'agenticlu.') belongs to."""
    parts = module.split(".") if module else ["__init__"]
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ROW:
            return name
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC / "agenticlu").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Names of our modules that a file imports, anywhere in it, without 'agenticlu.'."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join(filter(None, ["agenticlu", *above, base]))
            names = []
            for alias in node.names:
                inner = SRC / Path(*base.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                names.append(f"{base}.{alias.name}" if is_module else base)
        else:
            continue
        for name in names:
            if name == "agenticlu" or name.startswith("agenticlu."):
                yield name.removeprefix("agenticlu").removeprefix(".")


def faults(edges: list[tuple[str, str]]) -> list[str]:
    found = []
    for importer, imported in edges:
        above, below = unit_of(imported), unit_of(importer)
        if above is None or below is None:
            found.append(f"{importer} -> {imported}: not in the table")
        elif above != below and ROW[above] >= ROW[below]:
            found.append(f"{importer} -> {imported}: {above} is not above {below}")
    return found


@functools.cache
def all_edges() -> list[tuple[str, str]]:
    """All imports but those of the package's own `__init__`, which names its public names' homes
    for type checkers alone (`test_light` sees that it loads nothing)."""
    files = sorted(set((SRC / "agenticlu").rglob("*.py")) - {SRC / "agenticlu" / "__init__.py"})
    return [(module_name(path), name) for path in files for name in imports_of(path)]


def test_imports_go_up_the_table() -> None:
    assert faults(all_edges()) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No cycles, imports inside functions included."""
    below: dict[str, set[str]] = {}
    for importer, imported in all_edges():
        if importer != imported:
            below.setdefault(importer, set()).add(imported)
    assert find_cycle(below) is None
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def find_cycle(below: dict[str, set[str]]) -> list[str] | None:
    """Returns the modules of a cycle in the order of their imports, or None."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for imported in sorted(below.get(module, ())):
            if found := walk(imported, [*path, module]):
                return found
        done.add(module)
        return None

    return next((found for module in sorted(below) if (found := walk(module, []))), None)


def test_every_module_stands_in_the_table() -> None:
    files = sorted((SRC / "agenticlu").rglob("*.py"))
    assert [str(path) for path in files if unit_of(module_name(path)) is None] == []


def test_the_walk_sees_what_it_should() -> None:
    edges = all_edges()
    assert len(edges) > 40
    assert ("dialogue.steps", "engines.base") in edges
    assert ("cli.ask.run", "dialogue.ask") in edges, "imports inside functions count"
    assert faults([("training.loop", "search.grow")])
    assert faults([("documents", "engines.base")])
    assert faults([("dialogue.ask", "cli")])
    assert faults([("engines.local.hf", "dialogue.steps")])
    assert faults([("dialogue.ask", "nowhere")])
    assert not faults([("training.loop", "training.trie"), ("engines.local.hf", "engines.base")])


def modules_after(code: str) -> set[str]:
    program = (
        "import sys, json, io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    {code}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout))


def help_of(*words: str) -> str:
    args = [*words, "--help"]
    return f"from agenticlu.cli import group; group.main({args!r}, standalone_mode=False)"


@pytest.mark.parametrize("code", ["import agenticlu", help_of()], ids=["import", "help"])
def test_light(code: str) -> None:
    loaded = modules_after(code)
    assert not loaded & set(HEAVY)
    if "help" in code:
        light = {"agenticlu", "click"}
        assert light <= loaded
        assert not loaded & {"pydantic", "numpy", "selectolax", "tokenizers", "rich", "jinja2"}


def test_help_of_every_command_is_light() -> None:
    lines = "; ".join(help_of(name).partition("; ")[2] for name in COMMANDS)
    loaded = modules_after(f"from agenticlu.cli import group; {lines}")
    assert not loaded & set(HEAVY)


def test_the_heavy_ones_could_have_been_loaded() -> None:
    for name in ("torch", "transformers", "aiohttp", "pyarrow", "matplotlib"):
        assert importlib.util.find_spec(name) is not None
    assert "json" in modules_after("import json")


def test_no_module_imports_a_heavy_package_for_the_pure_layers() -> None:
    """Rows of pure modules import nothing heavy even inside functions, but for PDF and HTML."""
    for path in sorted((SRC / "agenticlu").rglob("*.py")):
        unit = unit_of(module_name(path))
        if unit is None or ROW[unit] > 2:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {
            name.partition(".")[0]
            for node in tree.body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not top & {*HEAVY, "selectolax", "pypdfium2", "tokenizers", "rich"}, path
