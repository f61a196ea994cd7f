"""Search: a tree of clarifications for every question, crash-safe and resumable.

```
setup       builds a command's engine, tokenizer and judges
caller      sends calls to the engine and records each in the ledger
grounding   finds the pieces that bear on a text, in one of five ways
adapt       chooses how a document is grounded and shown, where the settings leave it open
growth      decides which nodes to expand next, and how many questions grow at once
tree        grows the tree of one question, from root to outcome
run         searches a corpus into a store; replays it from the ledger alone
cost        counts requests and tokens of one question, by the rules of the search
plan        predicts the cost of a run
status      heartbeat and progress of a run
store       the record of a run: one file, a ledger of every call
shards      sealed segments of runs, their merge, and many machines by Ray
```

The settings of a search, `SearchConfig`, are defined here.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from agenticlu.core.records import TurnKind
from agenticlu.core.settings import Settings, Spelling
from agenticlu.dialogue.steps import MAX_TOKENS
from agenticlu.judges import list_judges

Grounding = Literal["auto", "scan", "scan-many", "shortlist", "point", "as-published"]
Growth = Literal["until-solved", "full", "best-first"]
View = Literal["auto", "kept", "document"]


def _check_judge(name: str) -> str:
    if name not in list_judges():
        raise ValueError(f"must be one of {', '.join(list_judges())}")
    return name


JudgeName = Annotated[str, AfterValidator(_check_judge)]


class ReplayConfig(Settings):
    """Settings that a replay of a recorded run may change."""

    branching: int = Field(default=8, ge=1)
    """Clarifications sampled from a node (B)."""
    depth: int = Field(default=3, ge=0)
    """Maximum rounds (D); 0 answers directly."""
    grounding: Grounding = "auto"
    """Method of finding pieces. auto: scan, or what is far cheaper where the engine reuses no short
    prefixes."""
    view: View = "auto"
    """Text the model reads while it answers. document: all of it, marked, as at inference; read
    once and shared by all traces of the document, so that what is searched is what the trained
    model will be asked. kept: the pieces that grounding found. auto: document where it fits the
    model's window, else kept."""
    growth: Growth = "until-solved"
    """Policy of node expansion."""
    deepen: int | None = Field(default=2, ge=1)
    """Maximum nodes that until-solved expands per level, best first, one at a time."""
    node_budget: int | None = Field(default=None, ge=1)
    """Maximum nodes that best-first grows per tree, not counting the root. An expansion that does
    not fit whole is not begun."""
    token_budget: int | None = Field(default=None, ge=1)
    """Prompt and sampled tokens of a tree after which best-first begins no expansion; the one
    under way is finished."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Minimum relevance of the pieces kept: p(yes) + p(maybe)/2."""
    top_k: int | None = Field(default=8, ge=1)
    """Maximum pieces kept."""
    shortlist_k: int = Field(default=16, ge=1)
    """Pieces that the BM25 shortlist passes to the scan."""
    merge: bool = True
    """Merge near-duplicate clarifications and sample more in their place."""
    resamples: int = Field(default=2, ge=0)
    """Maximum further requests to reach the branching with distinct clarifications."""
    clarify_temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of clarifications."""
    answer_temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of sub-answers, answers and self-checks."""
    reply_tokens: dict[TurnKind, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Longest reply in tokens, by kind of turn."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus sampling: probability mass sampled from."""
    guide: bool = False
    """Guide replies, for a model that cannot hold the dialogue yet: clarifications are questions,
    findings are sentences and answers spans of the pieces kept. Models in this process only."""
    hint: bool = False
    """With guide: give rounds the known answer, as STaR's rationalisation does. Findings are
    sentences of the pieces kept that hold it, where there are any; direct answers get no hint."""
    check: bool = True
    """Sample the self-check."""
    root_check: bool = False
    """Sample a self-check of the direct answer, too, as the published algorithm does; it steers
    nothing."""
    closed_book: int = Field(default=0, ge=0)
    """Answers sampled without the document, to tag questions that do not need it."""
    judges: Annotated[
        tuple[JudgeName, ...],
        Spelling("judge", aliases=("judges",), metavar=f"[{'|'.join(list_judges())}]"),
    ] = ("exact",)
    """Judges of answers: exact, rouge-l, llm."""
    judge_all: bool = False
    """Also ask model judges about exact matches, which count as right without them."""
    pointing_weight: float = Field(default=0.0, ge=0, lt=1)
    """Share of a round's score that the F1 of the pieces on its path has, where gold pieces are
    known; the judges have the rest. It orders rounds and decides no answer."""

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.hint and not self.guide:
            raise ValueError("hint needs guide: only guided replies can be given the answer")
        budget = self.node_budget
        if self.growth == "best-first" and budget is not None and budget < self.branching:
            raise ValueError(
                f"node_budget = {budget} is less than one expansion ({self.branching} nodes); "
                "raise it, or lower branching"
            )
        return self

    @property
    def keeps_shortlist(self) -> bool:
        """Whether all of a shortlist is kept, whatever the model says of it: nobody is asked."""
        return self.threshold == 0 and (self.top_k is None or self.shortlist_k <= self.top_k)

    def most_tokens(self, kind: TurnKind) -> int:
        """Returns how long a reply may become."""
        return self.reply_tokens.get(kind, MAX_TOKENS[kind])


class SearchConfig(ReplayConfig):
    """Settings of a search."""

    piece_tokens: int = Field(default=512, ge=1)
    """Maximum tokens of a piece."""
    seed: int = 0
    """Seed of sampling."""
    profile: str = "default"
    """Prompt profile: a bundled name or a TOML file."""
    reuse_from: int | None = Field(default=None, ge=0)
    """Shortest prefix that the engine reuses, in tokens, by which auto chooses the grounding; 0:
    none. Default: as found out."""

    @property
    def is_open(self) -> bool:
        """Whether something is left to be chosen for each document; see `search.adapt`."""
        return any(getattr(self, name) == "auto" for name in OPEN_SETTINGS)

    @classmethod
    def as_published(cls, **changes: object) -> SearchConfig:
        """Returns the published algorithm: complete trees, question first, decoded verdicts.

        REFERENCE: EvanZhuang/AgenticLU at 5e2e23e, long_context_llm/qa_tree_datagen.py.
        docs/generate.md lists the deliberate differences.
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
"""Settings that the published program fixes in its code, or takes from its scripts."""
OPEN_SETTINGS = ("view", "grounding")
"""Settings that may say `auto`: `search.adapt` chooses them for each document."""
BOUND_SETTINGS = ("piece_tokens", "seed", "profile")
"""Settings that a run folder keeps for good: calls made under others would not be found again."""
