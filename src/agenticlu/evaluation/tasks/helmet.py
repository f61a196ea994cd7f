"""HELMET's data sets as items: every method can answer them, `helmet` with HELMET's own prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError
from agenticlu.core.records import Document, Question, content_id
from agenticlu.evaluation.helmet.rows import Loaded, Row, Wanted, load_rows
from agenticlu.evaluation.helmet.specs import build_prompt, scale_of
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest

Spans = tuple[tuple[int, int], ...]
LEFT_OUT = ("ctxs", "context", "document", "docs", "positive_ctxs", "hard_negative_ctxs")
"""Columns not copied into results: passages are kept by reference."""


def wanted_of(request: TaskRequest) -> Wanted:
    """Returns which rows a request asks for."""
    options = request.options
    return Wanted(
        name=request.task,
        length=request.length,
        root=Path(options.get("helmet_data") or "."),
        num=request.limit,
        shots=options.get("shots"),
        templates=options.get("templates"),
        tokenizer=options.get("helmet_tokenizer"),
    )


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields a task's items; rows of one question together, the deepest gold first.

    The limit counts questions where a question has several rows, as HELMET counts.

    Raises:
        ConfigError: A row lacks a column that the task needs.
    """
    wanted = wanted_of(request)
    try:
        loaded = load_rows(wanted)
        items = [_item(wanted, loaded, i, row) for i, row in enumerate(loaded.rows)]
    except KeyError as error:
        where = str(wanted.file()) if wanted.spec.file else "its data set"
        raise ConfigError(
            f"{wanted.name}: a row of {where} lacks the column {error}.",
            hint="docs/evaluation.md says where to get HELMET's files.",
        ) from error
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.session, []).append(item)
    for group in groups.values():
        yield from sorted(group, key=lambda item: -(item.depth or 0.0))


def _item(wanted: Wanted, loaded: Loaded, index: int, row: Row) -> Item:
    spec = wanted.spec
    rule, golds, reference, options = _RULES[spec.family](wanted, loaded, row)
    key = str(row.get("_key", ""))
    document = Document.of(row["context"], f"helmet:{wanted.name}:{wanted.length}:{index}")
    asked = loaded.template.ask.format(**row)
    kept = {k: v for k, v in row.items() if k not in LEFT_OUT and not k.startswith("_")}
    return Item(
        task=wanted.name,
        length=wanted.length,
        document=document,
        question=Question(
            id=content_id(wanted.name, key or str(index), row["question"], str(row.get("depth"))),
            text=asked,
            answers=golds,
            options=options,
        ),
        rule=rule,
        gold_spans=gold_spans(spec.family, row),
        group=content_id(wanted.name, key) if key else "",
        cluster=content_id(wanted.name, key) if key else str(row.get("_document") or ""),
        max_tokens=spec.gen_tokens,
        prompt=build_prompt(loaded.template, row, chat=spec.chat),
        reference=reference,
        row={**kept, "index": index},
    )


Found = tuple[str, tuple[str, ...], dict[str, Any], tuple[str, ...]]
"""Rule, golds, reference, options."""


def _golds(row: Row) -> tuple[str, ...]:
    answer = row["answer"]
    return (answer,) if isinstance(answer, str) else tuple(answer)


def _plain(prefix: str = "Answer:", rule: str = "open") -> Callable[[Wanted, Loaded, Row], Found]:
    return lambda wanted, loaded, row: (rule, _golds(row), {"prefix": prefix}, ())


def _ruler(wanted: Wanted, loaded: Loaded, row: Row) -> Found:
    return ("open" if "qa_" in wanted.name else "all_of", _golds(row), {}, ())


def _msmarco(wanted: Wanted, loaded: Loaded, row: Row) -> Found:
    labels = {name: int(label) for name, label in row["qrel"]}
    return ("ranking", _golds(row), {"labels": labels, "cuts": loaded.cuts}, ())


def _infbench(wanted: Wanted, loaded: Loaded, row: Row) -> Found:
    if "_options" in row:
        return ("choice", _golds(row), {"letter": row["answer"][0]}, tuple(row["_options"]))
    if "sum" in wanted.name:
        return ("summary", _golds(row), {"prefix": "Answer:", "id": row["id"]}, ())
    return ("long_answer", _golds(row), {}, ())


def _alce(wanted: Wanted, loaded: Loaded, row: Row) -> Found:
    shown = scale_of(wanted.spec, wanted.length)
    reference: dict[str, Any] = {"passages": row["docs"], "num_shown": shown}
    if "qampari" in wanted.name:
        reference["groups"] = row["answers"]
        return ("qampari", tuple(group[0] for group in row["answers"] if group), reference, ())
    reference["groups"] = [pair["short_answers"] for pair in row["qa_pairs"]]
    reference["long_answers"] = [a["long_answer"] for a in row.get("annotations") or []]
    firsts = tuple(group[0] for group in reference["groups"] if group)
    return ("string_em", firsts, reference, ())


_RULES: dict[str, Callable[[Wanted, Loaded, Row], Found]] = {
    "kilt": _plain(),
    "json_kv": _plain("corresponding value:"),
    "ruler": _ruler,
    "msmarco": _msmarco,
    "narrativeqa": _plain(),
    "qasper": _plain(),
    "infbench": _infbench,
    "multi_lexsum": _plain("Summary:", "summary"),
    "alce": _alce,
    "icl": _plain("label:", "label"),
}


def gold_spans(family: str, row: Row) -> Spans | None:
    """Returns where in the context the gold evidence stands, or None where that is not known."""
    context = row["context"]
    if family == "kilt" and row.get("positive_ctxs"):
        texts = [passage["text"] for passage in row["positive_ctxs"]]
    elif family == "json_kv":
        texts = [f'"{row["question"]}": {json.dumps(row["answer"])}']
    elif family == "ruler" and "type_needle_v" in row:
        texts = list(row["answer"])
    else:
        return None
    spans = []
    for text in texts:
        start = context.find(text)
        if start >= 0:
            spans.append((start, start + len(text)))
    return tuple(spans) or None
