"""Task registry: a task is one loader function and one row of `TASKS`.

A loader takes a `TaskRequest` and yields `Item`s. Items of one document come one after another, so
that its prefix is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import content_seed
from agenticlu.core.registry import Registry, require_known
from agenticlu.documents.tokens import Tokenizer
from agenticlu.evaluation.helmet.specs import SPECS
from agenticlu.evaluation.items import Item

DEFAULT_ITEMS = 100
_LOADERS = {
    "synthetic:load_world": ("world", "world-choice"),
    "ruler:load_needles": (
        *("niah_single_1", "niah_single_2", "niah_single_3"),
        *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        *("niah_multivalue", "niah_multiquery"),
    ),
    "ruler:load_variables": ("vt",),
    "ruler:load_common_words": ("cwe",),
    "ruler:load_frequent_words": ("fwe",),
    "ruler:load_key_values": ("key_values",),
    "synthetic:load_stories": ("babi_qa1", "babi_qa2", "babi_qa3"),
    "synthetic:load_graphs": ("graph_walk", "graph_parents"),
    "synthetic:load_dialogues": ("mrcr_2", "mrcr_4", "mrcr_8"),
    "synthetic:load_labelled_examples": ("icl_like",),
    "synthetic:load_label_counts": ("oolong_like",),
    "helmet:load": tuple(SPECS),
}
TASKS = Registry(
    "task",
    {name: f"{__name__}.{loader}" for loader, names in _LOADERS.items() for name in names},
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
