"""What an evaluation runs: one record, saved with its results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from agenticlu.core.errors import UsageError, did_you_mean
from agenticlu.core.records import Record
from agenticlu.dialogue.steps import MAX_TOKENS
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.methods import Settings, find_method
from agenticlu.evaluation.metrics import metric_names
from agenticlu.evaluation.tasks import TaskRequest, find_task, load_items

CONFIG_NAME = "config.json"
PUBLISHED = {
    "as_published": True,
    "rounds": 1,
    "temperature": 0.6,
    "top_p": 1.0,
    "max_tokens": 1024,
    "metric": "substring_exact_match",
}
"""Settings of the published arms: one round, up to 1024 tokens in every turn, temperature 0.6 but
for the prompting arms, which are greedy, and HELMET's substring match as the score."""
PUBLISHED_GREEDY = frozenset({"step-by-step", "plan-and-solve", "fact-and-reflect"})


class EvaluationConfig(Record):
    """What an evaluation runs; saved with its results."""

    tasks: tuple[str, ...] = ("world",)
    methods: tuple[str, ...] = ("direct", "clarify")
    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    label: str = ""
    """Name of the engine in the tables; empty takes the engine's own."""
    model_fingerprint: str = ""
    """Hash of the model's weights, so that other weights are other items; of its name where a
    server vouches for no more."""
    weights_known: bool = True
    """Whether that hash is of the weights."""
    servers: tuple[str, ...] = ()
    """Addresses of the servers that were asked; empty in process."""
    limit: int | None = None
    """Items per task and length at most."""
    questions_per_document: int = 4
    rounds: int | tuple[int, ...] = 1
    """Rounds at most of the methods that have several. Of several numbers the largest is asked
    for, and each gets a row: 'clarify@1', 'clarify@3'."""
    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    piece_tokens: int = 512
    top_k: int = 4
    retriever: str = "bm25"
    overlong: str = "refuse"
    with_rouge: bool = False
    concurrency: int = 8
    """Items in flight at most."""
    profile: str = "default"
    """Name or path of the prompt profile."""
    tokenizer: str = ""
    """Name of the tokenizer that lengths are counted with."""
    chat: bool | None = None
    """Prompt layouts sent as chat (True), as texts to continue (False), or each as its task has
    it (None)."""
    metric: str | None = None
    """Metric shown first where an item has it; None takes each task's own."""
    as_published: bool = False
    """The published arms' decoding: other temperatures for other arms, long turns."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further settings of single tasks."""

    @property
    def round_counts(self) -> tuple[int, ...]:
        """Numbers of rounds wanted, ascending; at least one."""
        given = (self.rounds,) if isinstance(self.rounds, int) else self.rounds
        return tuple(sorted(set(given)))

    def settings(self, base: Settings) -> Settings:
        """Returns the methods' settings, with profile, tokenizer and window of `base`."""
        return Settings(
            profile=base.profile,
            tokenizer=base.tokenizer,
            context_tokens=base.context_tokens,
            framing_tokens=base.framing_tokens,
            turn_tokens=dict.fromkeys(MAX_TOKENS, self.max_tokens)
            if self.as_published
            else base.turn_tokens,
            greedy_methods=PUBLISHED_GREEDY if self.as_published else frozenset(),
            rounds=self.round_counts[-1],
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
            piece_tokens=self.piece_tokens,
            top_k=self.top_k,
            retriever=self.retriever,
            overlong=self.overlong,
        )


def as_published_config(config: EvaluationConfig) -> EvaluationConfig:
    """Returns the settings of the published arms where they differ from ours."""
    return config.model_copy(update=PUBLISHED)


def check_config(config: EvaluationConfig) -> None:
    """Raises UsageError for what cannot be, before any work."""
    for method in config.methods:
        find_method(method)
    for task in config.tasks:
        find_task(task)
    if not (config.tasks and config.methods and config.lengths and config.rounds != ()):
        raise UsageError("An evaluation needs at least one task, one method and one length.")
    if min(config.lengths) < 1 or config.round_counts[0] < 1 or config.max_tokens < 1:
        raise UsageError("Lengths, rounds and token limits are at least 1.")
    if config.limit is not None and config.limit < 1:
        raise UsageError(f"--limit {config.limit}: at least one item is needed.")
    known = metric_names()
    if config.metric is not None and config.metric not in known:
        listed = [name for name in known if "@" not in name or name.endswith("@10")]
        raise UsageError(
            f"There is no metric {config.metric!r}. Metrics: {', '.join(listed)} (other cuts too).",
            hint=did_you_mean(config.metric, known),
        )


def items_of(config: EvaluationConfig, task: str, length: int, settings: Settings) -> list[Item]:
    """Returns the items of one task at one length, their layouts in the form that is wanted."""
    items = load_items(
        TaskRequest(
            task=task,
            length=length,
            tokenizer=settings.tokenizer,
            limit=config.limit,
            seed=config.seed,
            questions_per_document=config.questions_per_document,
            options=config.options,
        )
    )
    return items if config.chat is None else [in_form(item, chat=config.chat) for item in items]


def in_form(item: Item, *, chat: bool) -> Item:
    """Returns an item whose layout, where it has one, is sent as chat or as a text to continue."""
    if item.prompt is None or item.prompt.chat == chat:
        return item
    return replace(item, prompt=replace(item.prompt, chat=chat))
