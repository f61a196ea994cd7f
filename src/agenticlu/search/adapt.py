"""What a search chooses where its settings say `auto`: how it grounds, and what it shows.

The choice follows from the document and from facts about the engine. Facts are asked for once and
kept with the run, choices with every tree: a resumed run, a replay and a merge do the same again,
whatever another server would say.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agenticlu.core.errors import DocumentTooLongError, EngineReplyError
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
FINE_TOKENS = 100
"""An engine that reused the shortest prefix it was measured with may reuse any."""
MEASURED_FROM_TOKENS = 1_000_000
"""Grounding that could read so many tokens makes it worth to measure a server's cache, which takes
up to 70,000 where the server does not report what it reused, else some hundreds to thousands."""
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
        reuse = config.reuse_from
        if reuse is None:
            measured = found.prefix_reuse_from_tokens or 1
            fine, never = measured <= FINE_TOKENS, measured == math.inf
            reuse = 1 if fine else 0 if never else round(measured)
        return cls(window_tokens=found.context_tokens, reuse_from_tokens=reuse)

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
    found = await engine.capabilities()
    if found.prefix_reuse_from_tokens is None and _is_worth_measuring(config, store):
        # A server that stumbles over this may still search well.
        with contextlib.suppress(EngineReplyError, DocumentTooLongError):
            found = await engine.capabilities("prefix_reuse_from_tokens")
    facts = Facts.of(found, config)
    if config.grounding == "auto" and facts.block > 1:
        facts = facts.model_copy(update={"writes_lines": await _writes_lines(caller)})
    store.put(facts=facts.model_dump(mode="json"))
    return facts


def _is_worth_measuring(config: SearchConfig, store: Store) -> bool:
    """Whether grounding could cost many times what it costs to measure the engine's cache."""
    if config.grounding != "auto" or config.reuse_from is not None:
        return False
    questions = store.questions()
    pieces = store.pieces(questions[0][1]) if questions else ()
    texts = len(questions) * (1 + config.branching * (config.depth > 0))
    return texts * sum(piece.num_tokens for piece in pieces) >= MEASURED_FROM_TOKENS


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
            chosen["grounding"] = self._choose_grounding(pieces)
        return chosen

    def explain(self, chosen: Mapping[str, str], pieces: Sequence[int]) -> list[str]:
        """Returns a line for people about each choice that they might not expect.

        Args:
            chosen: By `choose`, for a document.
            pieces: Tokens of each of its pieces.
        """
        lines = []
        window, reuse = self.facts.window_tokens, self.facts.reuse_from_tokens
        if chosen.get("view") == "kept" and window is None:
            lines.append(
                "The length of the model's window is unknown: answers are written over the pieces "
                "that grounding keeps. --window TOKENS has documents that fit shown whole."
            )
        elif chosen.get("view") == "kept":
            lines.append(
                f"Documents that do not fit the window ({window:,} tokens) beside the dialogue are "
                "answered over the pieces that grounding keeps (--view kept)."
            )
        if "grounding" not in chosen:
            return lines
        cache = f"no prefix under {reuse:,} tokens" if reuse else "no prefixes"
        if chosen["grounding"] != "scan":
            lines.append(
                f"The engine reuses {cache}, so that a scan would read every piece again for every "
                f"text: pieces are found by {chosen['grounding']} (--grounding)."
            )
        elif reuse and self.is_dear(pieces) and max(pieces) < reuse:
            lines.append(
                f"The engine reuses {cache}, and pieces are shorter: each is read again for every "
                f"text. --piece-tokens {reuse:,} costs less, where passages may be that long."
            )
        return lines

    def is_dear(self, pieces: Sequence[int]) -> bool:
        """Whether the engine's cache makes a scan of these pieces much dearer than it could be."""
        if self.facts.block == 1 or self.sizes is None or not pieces:
            return False
        return self._cost(pieces, "scan") >= COARSE * self._cost(pieces, "scan", block=1)

    def _fits(self, pieces: Sequence[int]) -> bool:
        window = self.facts.window_tokens
        if window is None:
            return False
        turns = sum(self.config.most_tokens(kind) + 3 * MAX_TEMPLATE_TOKENS for kind in FULL_ROUND)
        document = sum(pieces) + MARK_TOKENS * len(pieces)
        return document + OPENING_TOKENS + max(1, self.config.depth) * turns <= window

    def _choose_grounding(self, pieces: Sequence[int]) -> Grounding:
        if not self.is_dear(pieces):
            return "scan"
        best: Grounding = "scan"
        least = self._cost(pieces, best)
        others: tuple[Grounding, ...] = ("scan-many", "shortlist")
        for other in others:
            if other == "scan-many" and not self.facts.writes_lines:
                continue
            price = self._cost(pieces, other)
            if price * LEAST_GAIN[other] <= least:
                best, least = other, price
        return best

    def _cost(self, pieces: Sequence[int], grounding: Grounding, block: float | None = None) -> int:
        """Returns the tokens that grounding one more question would compute, at least."""
        assert self.sizes is not None
        spent = SearchCost()
        QuestionCost(
            config=self.config.model_copy(update={"grounding": grounding}),
            measured=MeasuredLengths(),
            sizes=self.sizes,
            pieces=pieces,
            levels=list_expansions(self.config)[0],
            first=False,
            tokens=QUESTION_TOKENS,
            block=self.facts.block if block is None else block,
        ).add_grounding(spent)
        return spent.usage.computed_tokens
