"""Every regular expression takes time in proportion to the text, whatever the text.

Documents, replies and settings come from outside, and one quadratic pattern freezes a process on a
page of blanks. The patterns are found in the source; what may make each slow is built from its own
parts: runs of what it repeats, after what it wants before them, and runs of its openings. Time is
the thread's own, and what counts is how it grows, so a busy machine does not matter.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import itertools
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
LENGTH = 3000
SLOW_S = 0.003
"""A linear pattern needs a tenth of it for an attack of that length."""
GIVEN_UP_S = 0.5
GROWTH = 8.0
"""Of the time where the text grows fourfold: 4 is linear, 16 quadratic."""
PROBES = " \n\taZ0_-.,'\"()[]<>{}*#:/|=é日\x00"


@dataclass(frozen=True)
class Pattern:
    where: str
    compiled: re.Pattern[str]
    uses: frozenset[str]
    """Names of the methods that are called on it; empty: unknown."""

    def run(self, text: str) -> None:
        if self.uses and self.uses <= {"match", "fullmatch"}:
            for use in self.uses:
                getattr(self.compiled, use)(text)
        else:
            for _ in self.compiled.finditer(text):
                pass


# --- Finding them ---------------------------------------------------------------------------------


class Unknown(str):
    """Stands for what only a running program knows: a name, or an alternation of names."""

    pattern = "x"


CALLS = ("compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn")


def collect() -> Iterator[Pattern]:
    for path in sorted((SRC / "agenticlu").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        uses = uses_of_names(tree)
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and is_re(node.func):
                method = node.func.attr  # type: ignore[attr-defined]
                parent = parents[node]
                used: set[str] = {method} if method != "compile" else set()
                if method == "compile" and isinstance(parent, ast.Assign):
                    target = parent.targets[0]
                    used = uses.get(target.id, set()) if isinstance(target, ast.Name) else set()
                elif method == "compile" and isinstance(parent, ast.Attribute):
                    used = {parent.attr}
                where = f"{path.relative_to(SRC / 'agenticlu')}:{node.lineno}"
                for text, flags in texts_of(node, method, path, parents):
                    if isinstance(text, bytes):
                        text = text.decode("latin-1")
                    yield Pattern(where, re.compile(text, flags), frozenset(used))


def is_re(func: ast.expr) -> bool:
    return (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.value.id == "re"
        and func.attr in CALLS
    )


def uses_of_names(tree: ast.AST) -> dict[str, set[str]]:
    """Methods called on each name; a name that is used otherwise is not among them."""
    uses: dict[str, set[str]] = {}
    called = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in CALLS
        ):
            uses.setdefault(node.value.id, set()).add(node.attr)
            called.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in called:
            uses.pop(node.id, None)
    return uses


def texts_of(
    node: ast.Call, method: str, path: Path, parents: dict[ast.AST, ast.AST]
) -> Iterator[tuple[Any, int]]:
    """The patterns and flags of a call; what only a running program knows is taken for 'x'."""
    position = {"sub": 4, "subn": 4, "split": 3}.get(method, 1 if method == "compile" else 2)
    flag = next((one.value for one in node.keywords if one.arg == "flags"), None)
    if flag is None and len(node.args) > position:
        flag = node.args[position]
    shown = node.args[0]
    module: dict[str, Any] = {"re": re}
    if not isinstance(shown, ast.Constant):
        parts = path.relative_to(SRC).with_suffix("").parts
        module = vars(importlib.import_module(".".join(parts).removesuffix(".__init__")))
    flags = 0 if flag is None else int(eval(ast.unparse(flag), dict(module)))
    for value in values_of(shown, node, module, parents):
        if isinstance(value, re.Pattern):
            yield value.pattern, value.flags
        else:
            yield value, flags


def values_of(
    shown: ast.expr, at: ast.AST, module: dict[str, Any], parents: dict[ast.AST, ast.AST]
) -> list[Any]:
    """The values that an expression may have, by the assignments and loops around it."""
    found: list[dict[str, Any]] = [dict(module)]
    bound = {
        one.id
        for part in ast.walk(shown)
        if isinstance(part, ast.comprehension)
        for one in ast.walk(part.target)
        if isinstance(one, ast.Name)
    }
    names = {one.id for one in ast.walk(shown) if isinstance(one, ast.Name)} - bound
    for name in sorted(names):
        if name in module or name in dir(builtins):
            continue
        choices = bindings(name, at, module, parents) or [Unknown("x")]
        found = [{**one, name: choice} for one in found for choice in choices]
    code = compile(ast.Expression(shown), "pattern", "eval")
    return [eval(code, one) for one in found]


def bindings(
    name: str, at: ast.AST, module: dict[str, Any], parents: dict[ast.AST, ast.AST]
) -> list[Any]:
    """What a name of a function is bound to there, where that is written in the function."""
    around = at
    while around in parents and not isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef):
        around = parents[around]
    found: list[Any] = []
    for node in ast.walk(around):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
            for target, value in pairs:
                if isinstance(target, ast.Name) and target.id == name:
                    found += attempt(value, node, module, parents)
        elif (
            isinstance(node, ast.For | ast.comprehension)
            and isinstance(node.target, ast.Name)
            and node.target.id == name
        ):
            for values in attempt(node.iter, node, module, parents):
                found += list(values)
    return found


def attempt(
    value: ast.expr, at: ast.AST, module: dict[str, Any], parents: dict[ast.AST, ast.AST]
) -> list[Any]:
    names = {one.id for one in ast.walk(value) if isinstance(one, ast.Name)}
    if any(isinstance(one, ast.Name) and one.id in names for one in getattr(at, "targets", [])):
        return []
    try:
        return values_of(value, at, module, parents)
    except Exception:  # it needs more than its text to be known
        return []


# --- What may make one slow -----------------------------------------------------------------------


def tree_of(pattern: re.Pattern[str]) -> Any:
    return parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)


REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)


def sample(items: Any, pick: Callable[[re.Pattern[str]], str]) -> str:
    """A short text that the items match, or nearly."""
    parts = []
    for op, value in items:
        if op is ops.LITERAL:
            parts.append(chr(value))
        elif op in (ops.IN, ops.NOT_LITERAL, ops.ANY):
            parts.append(pick(single(op, value)))
        elif op in REPEATS:
            parts.append(sample(value[2], pick) * max(value[0], 1 if value[1] > 3 else 0))
        elif op is ops.SUBPATTERN:
            parts.append(sample(value[3], pick))
        elif op is ops.ATOMIC_GROUP:
            parts.append(sample(value, pick))
        elif op is ops.BRANCH:
            parts.append(sample(value[1][0], pick))
        elif op is ops.ASSERT and value[0] < 0:
            parts.append(sample(value[1], pick))
    return "".join(parts)


def single(op: Any, value: Any) -> re.Pattern[str]:
    """The pattern of one character of a set."""
    if op is ops.ANY:
        return re.compile(".")
    if op is ops.NOT_LITERAL:
        return re.compile(f"[^{re.escape(chr(value))}]")
    parts = []
    for kind, inner in value:
        if kind is ops.NEGATE:
            parts.append("^")
        elif kind is ops.LITERAL:
            parts.append(re.escape(chr(inner)))
        elif kind is ops.RANGE:
            parts.append(f"{re.escape(chr(inner[0]))}-{re.escape(chr(inner[1]))}")
        else:
            parts.append(CATEGORIES[inner])
    return re.compile(f"[{''.join(parts)}]")


CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}


def sets_of(items: Any) -> Iterator[re.Pattern[str]]:
    for op, value in items:
        if op in (ops.IN, ops.NOT_LITERAL, ops.ANY):
            yield single(op, value)
        elif op is ops.LITERAL:
            yield re.compile(re.escape(chr(value)))
        for inner in insides(op, value):
            yield from sets_of(inner)


def insides(op: Any, value: Any) -> list[Any]:
    if op in REPEATS:
        return [value[2]]
    if op is ops.SUBPATTERN:
        return [value[3]]
    if op is ops.BRANCH:
        return list(value[1])
    if op in (ops.ASSERT, ops.ASSERT_NOT):
        return [value[1]]
    if op is ops.ATOMIC_GROUP:
        return [value]
    return []


def representatives(items: Any) -> list[str]:
    """One character for each way in which the sets of a pattern can tell characters apart."""
    sets = list({one.pattern: one for one in sets_of(items)}.values())[:60]
    literals = "".join(re.sub(r"\\(.)", r"\1", one.pattern)[:1] for one in sets)
    seen: dict[tuple[bool, ...], str] = {}
    for char in PROBES + literals + "x":
        seen.setdefault(tuple(one.fullmatch(char) is not None for one in sets), char)
    return list(seen.values())


def prefixes(items: Any, pick: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """For each repetition: what comes before it, and a sample of what it repeats."""
    for index, (op, value) in enumerate(items):
        lead = before + sample(items[:index], pick)
        if op in REPEATS and value[1] > 3:
            yield lead, sample(value[2], pick)
        for inner in insides(op, value):
            yield from prefixes(inner, pick, lead)


def repeats(pattern: re.Pattern[str]) -> bool:
    return next(prefixes(tree_of(pattern), lambda _: "a"), None) is not None


def attacks(pattern: re.Pattern[str]) -> Iterator[str]:
    items = tree_of(pattern)
    chars = representatives(items)

    def pick(one: re.Pattern[str]) -> str:
        return next((char for char in chars if one.fullmatch(char)), "a")

    found = list(dict.fromkeys(prefixes(items, pick)))[:20]
    leads = list(dict.fromkeys(["", *(lead for lead, _ in found)]))[:6]
    ends = ("", "\x00")
    runs = [*chars[:12], *dict.fromkeys(pump for _, pump in found if len(pump) > 1)]
    for lead, run in itertools.product(leads, runs):
        for end in ends:
            yield lead + run * (LENGTH // len(run)) + end
    for lead, pump in found:
        for one in {lead + pump, lead, lead + pump + pump}:
            if one:
                yield one * (LENGTH // len(one) + 1)
    for one, two in itertools.permutations(chars[:6], 2):
        yield (one + two) * (LENGTH // 2)
        yield (one * 30 + two) * (LENGTH // 31)


# --- Timing them ----------------------------------------------------------------------------------


class GivenUpError(Exception):
    """A match took too long."""


def give_up(*_: object) -> None:
    raise GivenUpError


def seconds(pattern: Pattern, text: str) -> float:
    began = time.thread_time()
    pattern.run(text)
    return time.thread_time() - began


def fault(pattern: Pattern) -> str | None:
    """Tells the text on which a pattern is slow; None if there is none."""
    for text in dict.fromkeys(attacks(pattern.compiled)):
        signal.setitimer(signal.ITIMER_VIRTUAL, GIVEN_UP_S)
        try:
            if seconds(pattern, text) < SLOW_S:
                continue
            small = min(seconds(pattern, text) for _ in range(2))
            signal.setitimer(signal.ITIMER_VIRTUAL, 16 * GIVEN_UP_S)
            large = min(seconds(pattern, stretched(text)) for _ in range(2))
        except GivenUpError:
            return f"{text[:40]!r}... of {len(text)} characters: given up"
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if large > GROWTH * small:
            return f"{text[:40]!r}... of {len(text)}: {small:.4f} s, fourfold: {large:.4f} s"
    return None


def stretched(text: str) -> str:
    """The text with its middle half repeated, so that it is four times as long."""
    quarter = len(text) // 4
    middle = text[quarter : 3 * quarter]
    return text[:quarter] + middle * 7 + text[3 * quarter :]


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, give_up)
    yield
    signal.signal(signal.SIGVTALRM, before)


def test_no_pattern_is_slow_on_any_text() -> None:
    patterns = list({(p.compiled, p.uses): p for p in collect() if repeats(p.compiled)}.values())
    assert len(patterns) > 150
    assert [f"{p.where}: {found}" for p in patterns if (found := fault(p))] == []


@pytest.mark.parametrize(
    "slow",
    [
        r"\s*x",
        r"(a+)+b",
        r"paragraph\s*(?:no\.)?\s*:?\s*(\d+)",
        r"<!--.*?-->",
        r"[ \t]+\n",
        r"(?:a|ab|b)*c",
        r"\w+@\w+",
        r"\{[^}]*\}",
        r"x.*y.*z",
    ],
)
def test_a_slow_pattern_would_be_seen(slow: str) -> None:
    assert fault(Pattern("here", re.compile(slow, re.DOTALL), frozenset({"search"})))


@pytest.mark.parametrize("fast", [r"(?<!\s)\s*+x", r"^\w+", r"<[^<>]*>", r"(?<!a)a++b"])
def test_a_fast_pattern_would_pass(fast: str) -> None:
    assert fault(Pattern("here", re.compile(fast), frozenset({"search"}))) is None
