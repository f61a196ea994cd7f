"""Settings of an evaluation: the configuration saved with its results, and what it resolves to."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from agenticlu.core.records import Record, TurnKind, content_id, content_seed
from agenticlu.dialogue.profiles import Profile
from agenticlu.dialogue.steps import MAX_TOKENS
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import Sampling
from agenticlu.evaluation.items import CHAT_TOKENS, Item

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
"""Methods that the published runs decoded greedily at every temperature of the others."""
ANSWERING: frozenset[TurnKind] = frozenset({"direct", "answer"})
"""Turns whose reply ends in the answer."""


class EvaluationConfig(Record):
    """What an evaluation runs; saved with its results."""

    tasks: tuple[str, ...] = ("world",)
    methods: tuple[str, ...] = ("direct", "clarify")
    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    label: str = ""
    """Name of the engine in the tables; empty takes the engine's own."""
    model_fingerprint: str = ""
    """Hash of the model's weights, so that other weights are other items; of the model's name where
    a server reports no more."""
    weights_known: bool = True
    """Whether the fingerprint is that of the weights."""
    servers: tuple[str, ...] = ()
    """Addresses of the servers; empty for a model in this process."""
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
    """Token limit of a reply that ends in an answer, for every method."""
    piece_tokens: int = 512
    top_k: int = 4
    """Pieces that `retrieve` shows."""
    retriever: str = "bm25"
    """bm25, or engine: the model's own relevance verdicts."""
    overlong: str = "refuse"
    """refuse: an item longer than the window fails. fit: pieces without gold facts are left out
    from the middle until it fits. cut-end: as fit, but the method `helmet` cuts the context's end
    at the nominal length, as HELMET does. A cut item counts as truncated."""
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
    def max_rounds(self) -> int:
        """Rounds to ask for: the largest number wanted."""
        return self.round_counts[-1]

    @property
    def round_counts(self) -> tuple[int, ...]:
        """Numbers of rounds wanted, ascending; at least one."""
        given = (self.rounds,) if isinstance(self.rounds, int) else self.rounds
        return tuple(sorted(set(given)))


@dataclass(frozen=True)
class RunSettings:
    """A configuration with what it resolves to: shared by all methods of a run."""

    config: EvaluationConfig
    profile: Profile
    tokenizer: Tokenizer
    context_tokens: int | None = None
    """The engine's window; None when unknown."""
    framing_tokens: int = CHAT_TOKENS
    """What a chat template or a start token adds to a prompt of the method `helmet`."""

    @functools.cached_property
    def profile_hash(self) -> str:
        """Hash of the wordings."""
        return content_id(self.profile.model_dump_json())

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Hash of how the tokenizer cuts text: a copy in another folder has the same."""
        return content_id(*(f"{start}-{end}" for start, end in self.tokenizer.spans(_PROBE)))

    def sampling(self, kind: TurnKind, item: Item, method: str = "") -> Sampling:
        """Returns how a turn is sampled."""
        config = self.config
        is_greedy = config.as_published and method in PUBLISHED_GREEDY
        return Sampling(
            temperature=0.0 if is_greedy else config.temperature,
            top_p=config.top_p,
            max_tokens=self.max_reply_tokens(kind),
            seed=content_seed(str(config.seed), item.question.id, kind),
        )

    def max_reply_tokens(self, kind: TurnKind) -> int:
        """Returns the token limit of a turn's reply."""
        limit = self.config.max_tokens
        if kind in ANSWERING or self.config.as_published:
            return limit
        return min(MAX_TOKENS.get(kind, limit), limit)


def as_published_config(config: EvaluationConfig) -> EvaluationConfig:
    """Returns the configuration with the settings of the published arms."""
    return config.model_copy(update=PUBLISHED)


WHOLE_BYTES = 64 * 1024 * 1024
"""Files up to this size are hashed whole; of larger ones, both ends and the size."""
END_BYTES = 1024 * 1024
_PROBE = (
    "On the 17th of March 2026, at 09:45, Ms. O'Neill-Žižková paid €1,234.50 (about 3.1% more) "
    "for unbelievably heterogeneous antidisestablishmentarianism; nobody re-read it.\n\n"
    "\tdef f(x_1: int) -> str:\n        return f'{x_1!r}'  # naïve café, Straße, Привет, 東京 🙂\n"
    "https://example.org/a?b=c&d=0x1F wanders through the quiet, quieter, quietest neighbourhood."
)
"""Text of many kinds: tokenizers that cut it alike are taken for one."""


def fingerprint(folder: str | Path) -> str:
    """Returns a hash of a local model's weights and configuration.

    Args:
        folder: Of a model in Hugging Face layout.
    """
    digest = hashlib.sha256()
    root = Path(folder)
    names = ("*.safetensors", "*.bin", "config.json", "generation_config.json", "*.jinja")
    files = sorted({path for pattern in names for path in root.glob(pattern)})
    for path in [*files, *sorted(root.glob("tokenizer*.json"))]:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read(END_BYTES))
                file.seek(-END_BYTES, 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]
