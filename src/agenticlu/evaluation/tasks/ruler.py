"""RULER's tasks as generators: needles, variables, common and frequent words, key-value recall.

Rows have RULER's columns; their prompt is the one that HELMET makes of such rows.
"""

from __future__ import annotations

import itertools
import json
import math
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document, Question, content_id, content_seed
from agenticlu.evaluation.helmet import (
    SPECS,
    Template,
    build_json_kv_row,
    build_prompt,
    build_ruler_row,
    find_scale,
    has_scale,
    load_templates,
    ruler_template,
)
from agenticlu.evaluation.records import DoesNotFitError, Item
from agenticlu.evaluation.tasks import TaskRequest, generated
from agenticlu.evaluation.tasks.generated import Fitter

NEEDLE_TOKENS = {"niah_multikey_3": 100, "niah_multiquery": 100}
"""Tokens of a reply to a needle task where it is not 50."""
OF_LINES = ("niah_single_1", "niah_multikey_2", "niah_multikey_3")
"""Needle tasks whose haystack is made of lines; that of the others is prose, measured in words."""
DEPTHS = tuple(round(100 * i / 39) for i in range(40))
"""Depths in per cent that needles are placed at; drawn without repeat."""
HOPS = 4
"""Assignments that pass a variable's value on."""
EXAMPLE_TOKENS = 500
"""Most tokens of variable tracking's worked example. At lengths below 4096 it may take a quarter of
the length, or else has no filler lines."""
NUM_COMMON = 10
NUM_ASKED = 3
"""Frequent words asked for: those of rank 2 to 4."""


@dataclass(frozen=True)
class RulerRow:
    """One generated row."""

    columns: dict[str, Any]
    """As in RULER's files: context, query or question, answer and what the task adds."""
    golds: tuple[str, ...] = ()
    """Sentences or lines of the context that hold the evidence."""


Build = Callable[[Random, int], RulerRow]
"""Makes a row with a haystack of the given size; every draw comes from the generator."""


def _load_template(request: TaskRequest) -> Template:
    return load_templates(request.options.get("templates"))[ruler_template(request.task)]


def _fit_items(
    request: TaskRequest, build: Build, fitter: Fitter[RulerRow], gen_tokens: int
) -> Iterator[Item]:
    """Yields items that fit; at short lengths at most a quarter is reserved for the reply."""
    template = _load_template(request)
    gen_tokens = min(gen_tokens, request.length // 4)

    def tokens(made: RulerRow) -> int:
        row = build_ruler_row(made.columns)
        text = build_prompt(template, row, chat=False).text + " " + ", ".join(row["answer"])
        return request.tokenizer.count(text) + gen_tokens

    for index, made in fitter.rows(build, tokens):
        yield _build_item(request, template, made, index, gen_tokens)


def _build_item(
    request: TaskRequest, template: Template, made: RulerRow, index: int, gen_tokens: int
) -> Item:
    seed = request.row_seed(index)
    columns = {"index": index, **made.columns, "length": request.length, "seed": seed}
    row = build_ruler_row(columns)
    context = row["context"]
    spans = []
    for gold in made.golds:
        start = context.find(gold)
        assert start >= 0, f"the evidence {gold!r} is not in the context"
        spans.append((start, start + len(gold)))
    return Item(
        task=request.task,
        length=request.length,
        document=Document.of(context, f"{request.task}:{request.seed}:{index}"),
        question=Question(
            id=content_id(request.task, str(seed)),
            text=template.ask.format(**row),
            answers=tuple(row["answer"]),
        ),
        rule="all_of",
        gold_spans=tuple(spans) or None,
        max_tokens=gen_tokens,
        prompt=build_prompt(template, row, chat=False),
        row={key: value for key, value in columns.items() if key != "context"},
    )


def _insert_in_order(parts: list[str], places: list[int], inserted: list[str]) -> None:
    """Inserts texts before the given places, which are ascending and count the parts alone."""
    # From the end, so that what is inserted does not move the places still to come.
    for place, text in reversed(list(zip(places, inserted, strict=True))):
        parts.insert(place, text)


def load_needles(request: TaskRequest) -> Iterator[Item]:
    """Yields needles in a haystack: RULER's eight niah tasks."""
    step = 500
    if request.task in OF_LINES:
        step = 25 if request.length >= 4096 else 5
    fitter = Fitter[RulerRow](request, step=step)
    gen_tokens = NEEDLE_TOKENS.get(request.task, 50)
    yield from _fit_items(request, needle_builder(request), fitter, gen_tokens)


def needle_builder(request: TaskRequest) -> Build:
    """Returns the function that makes a row of a needle task."""
    task, path = request.task, request.options.get("haystack")
    source = generated.require_source(request.options)

    def build(rng: Random, size: int) -> RulerRow:
        if task == "niah_single_1":
            key = generated.key_name(rng, source)
            return _needle_in_lines(rng, [generated.FILLER_LINE] * size, "number", key)
        if task in OF_LINES:
            kind = "number" if task.endswith("2") else "uuid"
            return _needle_among_needles(rng, size, kind, source)
        return _needles_in_prose(rng, task, size, path, source)

    return build


def _render_needle(kind: str, key: str, value: str) -> str:
    return f"One of the special magic {kind}s to remember for {key} is: {value}."


def _draw_key(rng: Random, kind: str, source: str) -> str:
    return generated.uuid(rng) if kind == "uuid" else generated.key_name(rng, source)


def _draw_value(rng: Random, kind: str) -> str:
    return generated.uuid(rng) if kind == "uuid" else generated.number(rng)


def _needle_in_lines(rng: Random, lines: list[str], kind: str, key: str) -> RulerRow:
    value = _draw_value(rng, kind)
    sentence = _render_needle(kind, key, value)
    lines.insert(rng.randrange(len(lines) + 1), sentence)
    row = {"context": "\n".join(lines), "query": key, "answer": [value], "type_needle_v": kind}
    return RulerRow(row, (sentence,))


def _needle_among_needles(rng: Random, num_lines: int, kind: str, source: str) -> RulerRow:
    """Puts one needle among others; its key occurs nowhere else."""
    gold = _draw_key(rng, kind, source)
    lines: list[str] = []
    while len(lines) < num_lines:
        key = _draw_key(rng, kind, source)
        if key != gold:
            lines.append(_render_needle(kind, key, _draw_value(rng, kind)))
    return _needle_in_lines(rng, lines, kind, gold)


def _needles_in_prose(
    rng: Random, task: str, num_words: int, path: str | None, source: str
) -> RulerRow:
    """Puts needles between the sentences of some prose."""
    kind = "uuid" if task == "niah_single_3" else "number"
    num_keys = 4 if task in ("niah_multikey_1", "niah_multiquery") else 1
    num_values = 4 if task == "niah_multivalue" else 1
    keys = generated.distinct(lambda rng: generated.key_name(rng, source), rng, num_keys)
    pairs = [(key, _draw_value(rng, kind)) for key in keys for _ in range(num_values)]
    needles = [_render_needle(kind, key, value) for key, value in pairs]
    many = task in ("niah_multiquery", "niah_multivalue")
    asked = keys if task == "niah_multiquery" else keys[:1]
    shuffled = rng.sample(needles, len(needles))
    prose = _draw_prose(rng, num_words, path)
    places = sorted(int(len(prose) * depth / 100) for depth in rng.sample(DEPTHS, len(shuffled)))
    _insert_in_order(prose, places, shuffled)
    row = {
        "context": " ".join(prose),
        "query": asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + f", and {asked[-1]}",
        "answer": [value for key, value in pairs if key in asked],
        "type_needle_v": f"{kind}s" if many else kind,
    }
    return RulerRow(row, tuple(needles if many else needles[:1]))


def _draw_prose(rng: Random, num_words: int, path: str | None) -> list[str]:
    """Returns sentences of so many words in all; the last one is cut where they end."""
    prose: list[str] = []
    left = num_words
    source = generated.sentences(rng, path)
    while left > 0:
        words = next(source).split()[:left]
        prose.append(" ".join(words))
        left -= len(words)
    return prose


def load_variables(request: TaskRequest) -> Iterator[Item]:
    """Yields variable tracking (vt): the names that hold a value after a chain of assignments."""
    example = ChainExample(request, _load_template(request))

    def build(rng: Random, num_lines: int) -> RulerRow:
        shown = example.render(rng.getrandbits(32))
        chain = _draw_chain(rng, rng, num_lines, 5)
        row = {
            "context": chain.text,
            "query": chain.value,
            "num_v": HOPS + 1,
            "example": shown,
            "answer": chain.names,
        }
        return RulerRow(row, tuple(chain.assignments))

    yield from _fit_items(request, build, Fitter[RulerRow](request, step=10), 50)


@dataclass(frozen=True)
class Chain:
    """A text of filler lines in which names are assigned one after the other."""

    text: str
    names: list[str]
    value: str
    assignments: list[str]


def _draw_chain(places_rng: Random, names_rng: Random, num_lines: int, letters: int) -> Chain:
    """Draws the assignments' places from one generator, names and value from another."""

    def name(source: Random) -> str:
        return "".join(source.choices(string.ascii_uppercase, k=letters))

    names = generated.distinct(name, names_rng, HOPS + 1)
    value = str(names_rng.randint(10000, 99998))
    assignments = [f"VAR {names[0]} = {value}"]
    assignments += [f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(names)]
    places = sorted(places_rng.randrange(num_lines + 1) for _ in assignments)
    lines = [generated.FILLER_LINE] * num_lines
    _insert_in_order(lines, places, assignments)
    return Chain(" ".join(lines), names, value, assignments)


class ChainExample:
    """The worked example: one text for all rows, with other names and another value in each.

    Args:
        request: Its length and tokenizer bound the example.
        template: Its wording.
    """

    def __init__(self, request: TaskRequest, template: Template) -> None:
        self._count = request.tokenizer.count
        self._template = template
        self._places_seed = content_seed("vt example", str(request.seed), str(request.length))
        short = request.length < 4096
        room = min(EXAMPLE_TOKENS, request.length // 4) if short else EXAMPLE_TOKENS
        self._fitter = Fitter[str](request, step=1, least=0, room=room)

    def render(self, seed: int) -> str:
        """Returns the example with the names that follow from a seed."""

        def build(num_lines: int) -> str:
            chain = _draw_chain(Random(self._places_seed), Random(seed), num_lines, 3)
            fields = {"query": chain.value, "num_v": HOPS + 1, "example": ""}
            shown = self._template.user.format(context=chain.text, **fields)
            label = self._template.label.format(**fields)
            return f"{shown}{self._template.separator}{label} {' '.join(chain.names)}"

        try:
            return self._fitter.row(build, self._count)
        except DoesNotFitError:
            bare = build(0)
            if self._count(bare) > EXAMPLE_TOKENS:
                raise
            return bare


def load_common_words(request: TaskRequest) -> Iterator[Item]:
    """Yields cwe: the ten words that occur most often in a numbered list."""
    words = generated.words(generated.require_source(request.options))
    template = _load_template(request)
    short = request.length < 4096

    def build(rng: Random, num_words: int) -> RulerRow:
        shown = rng.sample(words, 20 if short else 40)
        text, other = _draw_list(rng, shown, *((3, 1) if short else (10, 3)))
        drawn = rng.sample(words, num_words)
        context, common = _draw_list(rng, drawn, *((6, 1) if short else (30, 3)))
        example = template.user.format(context=text, example="", query="")
        example += f"{template.separator}{template.label} {_number(other)}"
        return RulerRow({"context": context, "example": example, "answer": common})

    fitter = Fitter[RulerRow](request, step=10, least=NUM_COMMON + 1, most=len(words))
    yield from _fit_items(request, build, fitter, 100)


def _draw_list(rng: Random, words: list[str], often: int, seldom: int) -> tuple[str, list[str]]:
    """Returns a numbered list in which the first ten words occur more often, and those ten."""
    common = words[:NUM_COMMON]
    every = common * often + words[NUM_COMMON:] * seldom
    rng.shuffle(every)
    return _number(every), common


def _number(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


def load_frequent_words(request: TaskRequest) -> Iterator[Item]:
    """Yields fwe: the most frequent of coded words, whose counts follow Zipf's law."""
    num_coded = max(request.length // 50, 1 + NUM_ASKED)

    def build(rng: Random, num: int) -> RulerRow:
        return _draw_frequent_words(rng, zipf_counts(num, num_coded))

    def usable(num: int) -> bool:
        return is_decided(zipf_counts(num, num_coded))

    step = max(1, request.length // 32)
    fitter = Fitter[RulerRow](request, step=step, start=request.length // 6, usable=usable)
    yield from _fit_items(request, build, fitter, 50)


def zipf_counts(num: int, num_coded: int) -> list[int]:
    """Returns how often each coded word occurs, by Zipf's law with exponent 2.

    >>> zipf_counts(100, 5)
    [60, 15, 6, 3, 2]
    """
    zeta = math.pi**2 / 6
    return [int(num * rank**-2 / zeta) for rank in range(1, num_coded + 1)]


def is_decided(counts: list[int]) -> bool:
    """Whether the last word asked for is more frequent than the first one that is not.

    >>> is_decided([27, 6, 3, 1, 1]), is_decided([33, 8, 3, 2, 1]), is_decided([12, 3, 1, 0])
    (False, True, False)
    """
    last = counts[NUM_ASKED]
    return last >= 1 and last > (counts[NUM_ASKED + 1] if len(counts) > NUM_ASKED + 1 else 0)


def _draw_frequent_words(rng: Random, counts: list[int]) -> RulerRow:
    """Draws coded words; the most frequent one is written as dots."""

    def coded(source: Random) -> str:
        return "".join(source.choices(string.ascii_lowercase, k=6))

    words = generated.distinct(coded, rng, len(counts))
    every: list[str] = []
    for rank, (word, count) in enumerate(zip(words, counts, strict=True), start=1):
        every += ["..." if rank == 1 else word] * count
    rng.shuffle(every)
    return RulerRow({"context": " ".join(every), "answer": words[1 : 1 + NUM_ASKED]})


NUM_PLACES = 6
GEN_TOKENS = 100
NUM_DEMOS = 4
"""Demonstrations stored with a row, as in HELMET's files; more where more are shown."""

Pairs = dict[str, str]


def load_key_values(request: TaskRequest) -> Iterator[Item]:
    """Yields six items per object.

    At HELMET's lengths an object has HELMET's number of pairs, or as many of them as fit.

    Raises:
        UsageError: An object has fewer pairs than demonstrations are to be shown.
    """
    spec = SPECS["json_kv"]
    template = load_templates(request.options.get("templates"))["json_kv"]
    given = request.options.get("shots")
    shots = spec.shots if given is None else int(given)
    gen_tokens = min(GEN_TOKENS, request.length // 4)
    most = find_scale(spec, request.length) if has_scale(request.length) else None
    least = max(NUM_PLACES, shots + 1)
    if most is not None and least > most:
        raise UsageError(
            f"{shots} demonstrations do not fit: objects at {request.length} have {most} pairs.",
            hint=f"Try --shots {most - 1}.",
        )
    fitter = Fitter[Pairs](request, step=1, start=most or 0, least=least, most=most)

    def tokens(pairs: Pairs) -> int:
        """Counts the longest of an object's six rows; their contexts are equal."""
        count = request.tokenizer.count

        def render(row: dict[str, Any], context: str) -> str:
            shown = build_json_kv_row({**row, "context": context}, shots)
            return f"{build_prompt(template, shown, chat=False).text} {row['answer']}"

        rows = [_build_row(pairs, place, shots) for place in range(NUM_PLACES)]
        longest = max(rows, key=lambda row: count(render(row, "")))
        return count(render(longest, _render(pairs))) + gen_tokens

    for first in range(0, request.num_items, NUM_PLACES):
        number = first // NUM_PLACES
        seed = request.row_seed(number)

        def build(num_pairs: int, seed: int = seed) -> Pairs:
            rng = Random(seed)
            keys = generated.distinct(generated.uuid, rng, num_pairs)
            return {key: generated.uuid(rng) for key in keys}

        pairs = fitter.row(build, tokens)
        document = Document.of(_render(pairs), f"key_values:{request.seed}:{number}")
        for place in range(min(NUM_PLACES, request.num_items - first)):
            raw = _build_row(pairs, place, shots)
            raw |= {"id": first + place, "length": request.length, "seed": seed}
            row = build_json_kv_row({**raw, "context": document.text}, shots)
            yield _key_values_build_item(request, template, document, raw, row, gen_tokens)


def _key_values_build_item(
    request: TaskRequest,
    template: Template,
    document: Document,
    raw: dict[str, Any],
    row: dict[str, Any],
    gen_tokens: int,
) -> Item:
    line = f'"{raw["question"]}": "{raw["answer"]}"'
    start = document.text.index(line)
    return Item(
        task=request.task,
        length=request.length,
        document=document,
        question=Question(
            id=content_id("key_values", raw["question"]),
            text=template.ask.format(**row),
            answers=(raw["answer"],),
        ),
        rule="open",
        gold_spans=((start, start + len(line)),),
        max_tokens=gen_tokens,
        prompt=build_prompt(template, row, chat=False),
        reference={"prefix": SPECS["json_kv"].label},
        row=raw,
    )


def _render(pairs: Pairs) -> str:
    return f"JSON data:\n{json.dumps(pairs, indent=4)}"


def _build_row(pairs: Pairs, place: int, shots: int) -> dict[str, Any]:
    """Returns the columns of HELMET's files but for the context."""
    keys = list(pairs)
    gold = keys[round(place * (len(keys) - 1) / (NUM_PLACES - 1))]
    others = [key for key in keys if key != gold][: max(NUM_DEMOS, shots)]
    return {
        "question": gold,
        "answer": pairs[gold],
        "demos": [[key, pairs[key]] for key in others],
        "num_kvs": len(pairs),
        "depth": place / (NUM_PLACES - 1),
    }
