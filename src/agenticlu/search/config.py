"""What a search is asked to do; saved with the run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agenticlu.core.config import Settings
from agenticlu.core.records import TurnKind
from agenticlu.dialogue.steps import MAX_TOKENS

Grounding = Literal["scan", "scan-many", "shortlist", "point", "as-published"]
Growth = Literal["until-solved", "full", "best-first"]
View = Literal["kept", "document"]


class SearchConfig(Settings):
    """Settings of a search; unknown names are refused."""

    branching: int = Field(default=8, ge=1)
    """Clarifications sampled from a node (B)."""
    depth: int = Field(default=3, ge=0)
    """Rounds at most (D); 0 only answers directly."""
    piece_tokens: int = Field(default=512, ge=1)
    grounding: Grounding = "scan"
    view: View = "kept"
    """What the model reads while it answers. kept: the pieces that grounding found. document: all
    of it, marked, as at inference; read once and shared by all traces of the document, so that
    what is searched is what will be asked of the trained model. For documents that fit."""
    growth: Growth = "until-solved"
    deepen: int | None = Field(default=2, ge=1)
    """Nodes that `until-solved` expands on a level at most, best first, one at a time; None: all
    of them, until one is solved."""
    node_budget: int | None = Field(default=None, ge=1)
    """Nodes that `best-first` grows per tree at most, the root not counted. An expansion that does
    not fit whole is not begun."""
    token_budget: int | None = Field(default=None, ge=1)
    """Prompt and sampled tokens of a tree from which on `best-first` begins no expansion; the one
    under way is finished."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """A piece is kept when p(yes) + p(maybe)/2 reaches this."""
    top_k: int | None = Field(default=8, ge=1)
    """Pieces kept at most; None: no cap."""
    shortlist_k: int = Field(default=16, ge=1)
    """Pieces that `shortlist` hands to the scan."""
    merge: bool = True
    """Merge near-duplicate clarifications and sample more in their place."""
    resamples: int = Field(default=2, ge=0)
    """Further requests at most to reach `branching` distinct clarifications."""
    clarify_temperature: float = Field(default=1.0, ge=0)
    answer_temperature: float = Field(default=0.0, ge=0)
    """Of sub-answers, answers and self-checks."""
    reply_tokens: dict[TurnKind, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Most tokens of a reply, by kind of turn; other kinds take `dialogue.MAX_TOKENS`."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    check: bool = True
    """Sample the self-check."""
    root_check: bool = False
    """Sample a self-check of the direct answer, too, as the published algorithm does; it steers
    nothing."""
    closed_book: int = Field(default=0, ge=0)
    """Answers sampled without the document, to tag questions that do not need it."""
    seed: int = 0
    profile: str = "default"
    judges: tuple[str, ...] = ("exact",)
    judge_all: bool = False
    """Ask judges that cost something about exact matches, too, which are right without them."""

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        budget = self.node_budget
        if self.growth == "best-first" and budget is not None and budget < self.branching:
            raise ValueError(
                f"a node_budget of {budget} holds no expansion of {self.branching} nodes; "
                "raise it, or lower branching"
            )
        return self

    def most_tokens(self, kind: TurnKind) -> int:
        """Returns how long a reply may become."""
        return self.reply_tokens.get(kind, MAX_TOKENS[kind])

    @classmethod
    def as_published(cls, **changes: object) -> SearchConfig:
        """The published algorithm: complete trees, question first, decoded verdicts.

        REFERENCE: EvanZhuang/AgenticLU at 5e2e23e, long_context_llm/qa_tree_datagen.py. What is
        different on purpose stands in docs/generate.md.
        """
        return cls.model_validate({**PUBLISHED, **changes})


PUBLISHED: dict[str, object] = {
    "grounding": "as-published",
    "view": "kept",
    "growth": "full",
    "merge": False,
    "threshold": 0.5,
    "top_k": None,
    "clarify_temperature": 1.0,
    "answer_temperature": 0.2,
    "top_p": 0.95,
    "reply_tokens": {
        "direct": 1024,
        "clarify": 512,
        "sub_answer": 1024,
        "answer": 1024,
        "check": 128,
    },
    "check": True,
    "root_check": True,
    "judges": ("exact", "rouge-l"),
    "judge_all": True,
}
"""What the published program fixes in its code, or takes from its scripts."""
BOUND_SETTINGS = ("piece_tokens", "seed", "profile")
"""Settings that a run folder keeps for good: calls made under others would not be found again."""
