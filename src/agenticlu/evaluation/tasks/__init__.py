"""Where items come from: one file and one row of `TASKS` for each.

A task module has `load(request: TaskRequest) -> Iterator[Item]`. Items of one document come
together, so that its prefix is shared.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.errors import UsageError, did_you_mean
from agenticlu.core.records import content_seed
from agenticlu.documents.tokens import Tokenizer
from agenticlu.evaluation.helmet.specs import SPECS
from agenticlu.evaluation.items import Item

TASKS: dict[str, str] = {
    "world": "world",
    "world-choice": "world",
    "niah_single_1": "needles",
    "niah_single_2": "needles",
    "niah_single_3": "needles",
    "niah_multikey_1": "needles",
    "niah_multikey_2": "needles",
    "niah_multikey_3": "needles",
    "niah_multivalue": "needles",
    "niah_multiquery": "needles",
    "vt": "tracking",
    "cwe": "counting",
    "fwe": "counting",
    "key_values": "key_values",
    "babi_qa1": "stories",
    "babi_qa2": "stories",
    "babi_qa3": "stories",
    "graph_walk": "graphs",
    "graph_parents": "graphs",
    "mrcr_2": "reciting",
    "mrcr_4": "reciting",
    "mrcr_8": "reciting",
    "icl_like": "labelled",
    "oolong_like": "labelled",
    **dict.fromkeys(SPECS, "helmet"),
}
"""Task to the module of this package that makes its items."""


@dataclass(frozen=True)
class TaskRequest:
    """Which items of a task are wanted."""

    task: str
    length: int
    """Document length in tokens of `tokenizer`."""
    tokenizer: Tokenizer
    limit: int | None = None
    """Items at most; None means as many as the task has, or `DEFAULT_ITEMS` of a generator."""
    seed: int = 0
    questions_per_document: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of single tasks, such as the folder of HELMET's files."""

    @property
    def num_items(self) -> int:
        """Items that a generator makes."""
        return DEFAULT_ITEMS if self.limit is None else self.limit

    def seed_of(self, index: int) -> int:
        """Returns the seed that every draw of a generator's row follows from."""
        return content_seed(self.task, str(self.seed), str(self.length), str(index))


DEFAULT_ITEMS = 100


def load_items(request: TaskRequest) -> list[Item]:
    """Returns the items of a task.

    Raises:
        UsageError: There is no such task.
    """
    module = importlib.import_module(f"{__name__}.{find_task(request.task)}")
    items: Iterator[Item] = module.load(request)
    return list(items)


def find_task(name: str) -> str:
    """Returns the module of a task.

    Raises:
        UsageError: There is no such task.
    """
    if name in TASKS:
        return TASKS[name]
    raise UsageError(
        f"There is no task {name!r}. Tasks: {', '.join(TASKS)}.", hint=did_you_mean(name, TASKS)
    )
