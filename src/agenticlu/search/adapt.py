"""What a search chooses where its settings say `auto`: how it grounds, and what it shows.

The choice follows from the document and from facts about the engine. Facts are asked for once and
kept with the run, choices with every tree: a resumed run, a replay and a merge do the same again,
whatever another server would say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agenticlu.core.records import Message, Record
from agenticlu.dialogue.steps import FULL_ROUND
from agenticlu.documents.tokens import MAX_TEMPLATE_TOKENS
from agenticlu.engines.base import Capabilities, Sampling
from agenticlu.search import Grounding, SearchConfig
from agenticlu.search.caller import Caller, CallFailedError, sample_key
from agenticlu.search.cost import (
    MARK_TOKENS,
    MeasuredLengths,
    PromptSizes,
    QuestionCost,
    SearchCost,
    list_expansions,
)
from agenticlu.search.grounding import LINE_TOKENS, MANY_REQUEST, parse_lines
from agenticlu.search.store import CallId, Store

OPENING_TOKENS = 512
"""Room for the system turn and the question."""
QUESTION_TOKENS = 20
"""Assumed length of a question."""
COARSE = 2.0
"""Grounding is reconsidered where the engine's cache makes a scan so many times as dear."""
LEAST_GAIN = {"scan-many": 1.25, "shortlist": 3.0}
"""Times cheaper that another way must be. A shortlist may miss what shares no word with the text,
so it must save more."""
_LINES_TRIED = (
    "Passage: The lamp in the hall is red. Ada owns the old boat.",
    ("What colour is the lamp?", "Who owns the boat?", "How tall is the tower?"),
    (("yes", "maybe"), ("yes", "maybe"), ("no",)),
)


class Facts(Record):
    """What a search knows of its engine."""

    window_tokens: int | None = None
    """Longest prompt plus reply; None: unknown."""
    reuse_from_tokens: int = 1
    """Shortest prefix that is reused between requests; 1: any, or unknown; 0: none."""
    writes_lines: bool = True
    """Whether the model gives several verdicts in one reply, as `scan-many` asks it to. Tried only
    where prefixes are reused from a length on."""

    @classmethod
    def of(cls, found: Capabilities, config: SearchConfig) -> Facts:
        """Takes what an engine can do; what the settings say comes first."""
        reuse = found.prefix_reuse_from_tokens
        if config.reuse_from is not None:
            reuse = config.reuse_from
        return cls(
            window_tokens=found.context_tokens,
            reuse_from_tokens=1 if reuse is None else 0 if math.isinf(reuse) else round(reuse),
        )

    @property
    def block(self) -> float:
        """Tokens of the blocks in which prefixes are reused; infinite where none are."""
        return self.reuse_from_tokens or math.inf


async def find_facts(config: SearchConfig, caller: Caller) -> Facts:
    """Returns the facts that a run was begun with, or asks for them and keeps them.

    Raises:
        EngineError: The engine cannot be reached.
    """
    store, engine = caller.store, caller.engine
    known = read_facts(store)
    if known is not None or engine is None or not config.is_open:
        return known or Facts()
    facts = Facts.of(await engine.capabilities(), config)
    if config.grounding == "auto" and facts.block > 1:
        facts = facts.model_copy(update={"writes_lines": await _writes_lines(caller)})
    store.put(facts=facts.model_dump(mode="json"))
    return facts


def read_facts(store: Store) -> Facts | None:
    """Returns the facts that a run was begun with; None where it needed none."""
    kept = store.get("facts")
    return None if kept is None else Facts.model_validate(kept)


async def _writes_lines(caller: Caller) -> bool:
    """Whether the model answers a small request of the kind that `scan-many` makes."""
    passage, texts, wanted = _LINES_TRIED
    asked = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    messages = (Message(role="user", content=f"{passage}\n\n{MANY_REQUEST}\n{asked}"),)
    sampling = Sampling(max_tokens=LINE_TOKENS * len(texts))
    call = CallId(sample_key(("probe",), messages, sampling, 0), "probe", "")
    try:
        sampled = await caller.sample(call, messages, sampling)
    except CallFailedError:
        return False
    said = parse_lines(sampled.completions[0].text, len(texts))
    return all(verdict in right for verdict, right in zip(said, wanted, strict=True))


@dataclass(frozen=True)
class Chooser:
    """Chooses for one document after another."""

    config: SearchConfig
    facts: Facts
    sizes: PromptSizes | None
    """Of the prompts, by which grounding is chosen; None scans."""

    def choose(self, pieces: Sequence[int]) -> dict[str, str]:
        """Returns the settings that are left open, chosen for a document.

        Args:
            pieces: Tokens of each of its pieces.
        """
        chosen: dict[str, str] = {}
        if self.config.view == "auto":
            chosen["view"] = "document" if self._fits(pieces) else "kept"
        if self.config.grounding == "auto":
            view = {"view": chosen.get("view", self.config.view)}
            chosen["grounding"] = self._choose_grounding(pieces, view)
        return chosen

    def explain(self, chosen: dict[str, str]) -> list[str]:
        """Returns a line for people about each choice that they might not expect."""
        lines = []
        window, reuse = self.facts.window_tokens, self.facts.reuse_from_tokens
        if chosen.get("view") == "kept" and window is None:
            lines.append(
                "The length of the model's window is unknown: answers are written over the pieces "
                "that grounding keeps. --view document shows whole documents."
            )
        elif chosen.get("view") == "kept":
            lines.append(
                f"Documents that do not fit the window ({window:,} tokens) beside the dialogue are "
                "answered over the pieces that grounding keeps (--view kept)."
            )
        if chosen.get("grounding", "scan") != "scan":
            cache = f"no prefix under {reuse:,} tokens" if reuse else "no prefixes"
            lines.append(
                f"The engine reuses {cache}, so that a scan would read every piece again for every "
                f"text: pieces are found by {chosen['grounding']} (--grounding)."
            )
        return lines

    def _fits(self, pieces: Sequence[int]) -> bool:
        window = self.facts.window_tokens
        if window is None:
            return False
        turns = sum(self.config.most_tokens(kind) + 3 * MAX_TEMPLATE_TOKENS for kind in FULL_ROUND)
        document = sum(pieces) + MARK_TOKENS * len(pieces)
        return document + OPENING_TOKENS + max(1, self.config.depth) * turns <= window

    def _choose_grounding(self, pieces: Sequence[int], view: dict[str, str]) -> str:
        if self.sizes is None or self.facts.block == 1 or not pieces:
            return "scan"

        def cost(grounding: Grounding, block: float) -> int:
            config = self.config.model_copy(update={**view, "grounding": grounding})
            spent = SearchCost()
            QuestionCost(
                config=config,
                measured=MeasuredLengths(),
                sizes=sizes,
                pieces=pieces,
                levels=list_expansions(config)[0],
                first=False,
                tokens=QUESTION_TOKENS,
                block=block,
            ).add_grounding(spent)
            return spent.usage.computed_tokens

        sizes, block = self.sizes, self.facts.block
        best: Grounding = "scan"
        least = cost(best, block)
        if least < COARSE * cost(best, 1):
            return best
        others: tuple[Grounding, ...] = ("scan-many", "shortlist")
        for other in others:
            if other == "scan-many" and not self.facts.writes_lines:
                continue
            price = cost(other, block)
            if price * LEAST_GAIN[other] <= least:
                best, least = other, price
        return best
