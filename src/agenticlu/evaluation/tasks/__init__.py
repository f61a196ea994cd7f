"""Evaluation tasks: where items come from. A task is a loader function and a row of `TASKS`.

A loader takes a `TaskRequest` and yields `Item`s. Items of one document come one after another, so
that its prefix is shared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, Registry, UsageError, require_known
from agenticlu.core.files import Row
from agenticlu.core.records import Document, Question, content_id, content_seed
from agenticlu.documents.tokens import Tokenizer
from agenticlu.evaluation.helmet import SPECS, build_prompt
from agenticlu.evaluation.helmet.alce import find_groups
from agenticlu.evaluation.helmet.rows import Loaded, load_rows
from agenticlu.evaluation.helmet.sources import RowRequest
from agenticlu.evaluation.records import Item

DEFAULT_ITEMS = 100
_LOADERS = {
    ".synthetic:load_world": ("world", "world-choice"),
    ".ruler:load_needles": (
        *("niah_single_1", "niah_single_2", "niah_single_3"),
        *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        *("niah_multivalue", "niah_multiquery"),
    ),
    ".ruler:load_variables": ("vt",),
    ".ruler:load_common_words": ("cwe",),
    ".ruler:load_frequent_words": ("fwe",),
    ".ruler:load_key_values": ("key_values",),
    ".synthetic:load_stories": ("babi_qa1", "babi_qa2", "babi_qa3"),
    ".synthetic:load_graphs": ("graph_walk", "graph_parents"),
    ".synthetic:load_dialogues": ("mrcr_2", "mrcr_4", "mrcr_8"),
    ".synthetic:load_labelled_examples": ("icl_like",),
    ".synthetic:load_label_counts": ("oolong_like",),
    ".corpus:load_own": ("corpus",),
    ":load_helmet_items": tuple(SPECS),
}
TASKS = Registry(
    "task",
    {name: f"{__name__}{loader}" for loader, names in _LOADERS.items() for name in names},
)
"""Task name to its loader."""


@dataclass(frozen=True)
class TaskRequest:
    """The items wanted of one task."""

    task: str
    length: int
    """Document length in tokens of `tokenizer`."""
    tokenizer: Tokenizer
    limit: int | None = None
    """Most items; None means all that the task has, or `DEFAULT_ITEMS` of a generator."""
    seed: int = 0
    questions_per_document: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of single tasks, such as the folder of HELMET's files."""

    @property
    def num_items(self) -> int:
        """Items that a generator makes."""
        return DEFAULT_ITEMS if self.limit is None else self.limit

    def row_seed(self, index: int) -> int:
        """Returns the seed of every random draw in a generator's row `index`."""
        return content_seed(self.task, str(self.seed), str(self.length), str(index))


def load_items(request: TaskRequest) -> list[Item]:
    """Returns the items of a task.

    Raises:
        UsageError: The task is unknown.
    """
    require_task(request.task)
    items: Iterator[Item] = TASKS.load(request.task)(request)
    return list(items)


def require_task(name: str) -> None:
    """Checks the name of a task.

    Raises:
        UsageError: The task is unknown; the message lists those allowed.
    """
    require_known(name, TASKS, kind="task", error=UsageError)


Spans = tuple[tuple[int, int], ...]
LEFT_OUT = ("ctxs", "context", "document", "docs", "positive_ctxs", "hard_negative_ctxs")
"""Columns left out of results: passages are kept by reference."""


def load_helmet_items(request: TaskRequest) -> Iterator[Item]:
    """Yields a task's items; rows of one question together, the deepest gold first.

    The limit counts questions where a question has several rows, as HELMET counts.

    Raises:
        ConfigError: A row lacks a column that the task needs.
    """
    options = request.options
    wanted = RowRequest(
        name=request.task,
        length=request.length,
        root=Path(options.get("helmet_data") or "."),
        num=request.limit,
        shots=options.get("shots"),
        templates=options.get("templates"),
        tokenizer=options.get("helmet_tokenizer"),
    )
    try:
        loaded = load_rows(wanted)
        items = [_build_item(wanted, loaded, i, row) for i, row in enumerate(loaded.rows)]
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


def _build_item(wanted: RowRequest, loaded: Loaded, index: int, row: Row) -> Item:
    spec = wanted.spec
    golds, reference = _find_golds(wanted, loaded, row)
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
            options=tuple(row.get("_options", ())),
        ),
        rule=spec.rule,
        gold_spans=_find_gold_spans(spec.family, row),
        group=content_id(wanted.name, key) if key else "",
        cluster=content_id(wanted.name, key) if key else str(row.get("_document") or ""),
        max_tokens=spec.gen_tokens,
        prompt=build_prompt(loaded.template, row, chat=spec.chat),
        reference=reference,
        row={**kept, "index": index},
    )


def _find_golds(
    wanted: RowRequest, loaded: Loaded, row: Row
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Returns a row's accepted answers and the rest of what its rule needs."""
    spec = wanted.spec
    if spec.family == "alce":
        groups = find_groups(wanted.name, row)
        golds = tuple(group[0] for group in groups if group)
        return golds, {"passages": row["docs"], "groups": groups}
    answer = row["answer"]
    golds = (answer,) if isinstance(answer, str) else tuple(answer)
    if spec.rule == "ranking":
        return golds, {"labels": {name: int(n) for name, n in row["qrel"]}, "cuts": loaded.cuts}
    if spec.rule == "choice":
        return golds, {"letter": answer[0]}
    return golds, {"prefix": spec.label}


def _find_gold_spans(family: str, row: Row) -> Spans | None:
    """Returns the characters of the context that hold the gold evidence; None when unknown."""
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
