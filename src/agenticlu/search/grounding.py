"""Grounding: finds the pieces of a document that bear on a question or a clarification.

| mode | requests | what the model reads |
|---|---|---|
| scan | one per piece and text | piece first, text last: pieces' keys and values are reused |
| scan-many | one per piece for many texts | the same, with all texts; a decoded line for each |
| shortlist | one per shortlisted piece and text | as scan, after BM25 picked the pieces |
| point | one per text | the whole marked document, once; the model writes the marks |
| as-published | one per piece and text | question first, a reasoned verdict of many tokens |

What is found for a text in a document is stored once and shared by every node that asks the same.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from agenticlu.core.records import Message, Question, content_id
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.run import (
    RELEVANCE_CHOICES,
    VERDICT_SCORES,
    PieceIndex,
    ShownDocument,
    best_of,
    compute_relevance,
    render_relevance,
)
from agenticlu.dialogue.steps import Dialogue, Profile
from agenticlu.dialogue.thoughts import strip_thinking
from agenticlu.engines.base import Sampling
from agenticlu.search import SearchConfig
from agenticlu.search.caller import Caller, NotRecordedError, choices_key, sample_key, together
from agenticlu.search.store import CallId, Fold, GroundingRecord

Parsed = TypeVar("Parsed")
SCORE_DIGITS = 4
LINE_TOKENS = 6
"""Tokens allowed per line of `scan-many`."""
PUBLISHED_VERDICT_TOKENS = 128
_PUBLISHED_SYSTEM = "You judge whether a passage is of use for a question."
_PUBLISHED_REQUEST = (
    "Does the context help to answer the question? Give a short reason, then finish with "
    "Answer: yes, Answer: maybe or Answer: no."
)
MANY_REQUEST = (
    "For each numbered question, does the passage help to answer it? Reply with one line per "
    "question: its number, then yes, maybe or no."
)
_LINE = re.compile(r"^\W*(\d{1,3})\W+(.*)$")
_UNDER_WAY: ContextVar[str | None] = ContextVar("grounding under way", default=None)
"""Key of the grounding that this task works on. Its calls carry it, so that what an interrupted
grounding left behind can be told from the calls of a finished one."""


@dataclass(frozen=True)
class Grounded:
    """The pieces that bear on a text."""

    kept: tuple[int, ...]
    """Ascending."""
    relevance: tuple[float, ...] | None
    """One per piece; None where the mode does not score pieces."""
    unparsed: int = 0
    """Verdicts that could not be read; such pieces are not kept."""


def keep(scores: Sequence[float | None], config: SearchConfig) -> tuple[int, ...]:
    """Returns the pieces that reach the threshold, at most `top_k` of the best, ascending.

    >>> keep([0.9, 0.1, 0.6, 0.7], SearchConfig(top_k=2))
    (0, 3)
    """
    good = {
        index: score
        for index, score in enumerate(scores)
        if score is not None and score >= config.threshold
    }
    return tuple(sorted(best_of(good, config.top_k)))


@dataclass(eq=False)
class Grounder:
    """Grounds texts in one document."""

    shown: ShownDocument
    profile: Profile
    config: SearchConfig
    """The mode, the threshold and the cap."""
    caller: Caller
    """Asks the engine."""

    @functools.cached_property
    def _index(self) -> PieceIndex:
        return PieceIndex(self.shown)

    async def ground(self, texts: Sequence[str], owner: str = "") -> list[Grounded]:
        """Returns, for each text, the pieces that bear on it.

        Args:
            texts: Questions or clarifications.
            owner: Node that asks. Only `as-published` needs it, which shares no groundings.

        Raises:
            CallFailedError: A call failed for good.
            NotRecordedError: Replaying, and the ledger has no such grounding.
        """
        if self.config.grounding == "scan-many" and len(texts) > 1:
            return await self._ground_together(texts)
        if self.config.grounding == "as-published":
            return await together(
                self._ground_one(text, f"{owner} {number}") for number, text in enumerate(texts)
            )
        return await together(self._ground_one(text) for text in texts)

    async def _ground_one(self, text: str, owner: str = "") -> Grounded:
        key = self._key(text, owner)
        found = self.caller.store.find_grounding(key)
        if found is None:
            found = await self.caller.once(key, lambda: self._work(key, text, owner))
        return self._read(found)

    async def _work(self, key: str, text: str, owner: str) -> GroundingRecord:
        if self.caller.engine is None:
            raise NotRecordedError(key)
        _UNDER_WAY.set(key)
        if self.config.grounding == "point":
            return await self._point(key, text)
        if self.config.grounding == "as-published":
            return await self._scan_published(key, text, owner)
        indices: Sequence[int] = range(len(self.shown.pieces))
        if self.config.grounding == "shortlist":
            indices = self._index.pick(text, self.config.shortlist_k)
            if self.config.keeps_shortlist:
                return await self._finish(Fold(key, self.shown.document.id, [], kept=indices))
        return await self._scan(key, text, indices)

    async def _scan(self, key: str, text: str, indices: Sequence[int]) -> GroundingRecord:
        scores: list[float | None] = [None] * len(self.shown.pieces)
        keys = await self._score_pieces(text, indices, scores)
        return await self._finish(Fold(key, self.shown.document.id, keys, scores=tuple(scores)))

    async def _scan_published(self, key: str, text: str, owner: str) -> GroundingRecord:
        sampling = Sampling(
            temperature=0.2, top_p=0.95, max_tokens=PUBLISHED_VERDICT_TOKENS, seed=self.config.seed
        )
        keys, verdicts = await self._sample_pieces(
            (*self._scope, owner),
            sampling,
            lambda index: self._render_published(index, text),
            parse_verdict,
        )
        scores = [None if verdict is None else VERDICT_SCORES[verdict] for verdict in verdicts]
        unparsed = verdicts.count(None)
        return await self._finish(
            Fold(key, self.shown.document.id, keys, scores=tuple(scores), unparsed=unparsed)
        )

    async def _point(self, key: str, text: str) -> GroundingRecord:
        asked = Dialogue(
            profile=self.profile,
            document_id=self.shown.document.id,
            view=self.shown.view(),
            question=Question(id=content_id(text), text=text),
            steps=("point",),
            controls=self.shown.controls,
        )
        request = asked.next_request()
        assert request is not None
        sampling = Sampling(max_tokens=256, seed=self.config.seed)
        call = self._call(sample_key(self._scope, request.messages, sampling, 0))
        sampled = await self.caller.sample(call, request.messages, sampling)
        turn = request.turn(sampled.completions[0])
        kept = self.shown.named(turn.reply).valid[: self.config.top_k]
        return await self._finish(Fold(key, self.shown.document.id, [call.key], kept=kept))

    async def _ground_together(self, texts: Sequence[str]) -> list[Grounded]:
        """Grounds many texts with one request per piece; unread lines are scanned one by one."""
        group = list(dict.fromkeys(texts))
        group_key = self._key("\x1e".join(group))
        store = self.caller.store
        keys = {text: content_id(group_key, text, length=32) for text in group}
        if store.find_grounding(keys[group[0]]) is None:
            if self.caller.engine is None:
                raise NotRecordedError(group_key)
            _UNDER_WAY.set(keys[group[0]])
            await self.caller.once(group_key, lambda: self._scan_many(group, keys))
        records = [store.find_grounding(keys[text]) for text in texts]
        return [self._read(record) for record in records if record is not None]

    async def _scan_many(self, texts: Sequence[str], keys: Mapping[str, str]) -> None:
        sampling = Sampling(max_tokens=LINE_TOKENS * len(texts), seed=self.config.seed)
        shared, lines = await self._sample_pieces(
            self._scope,
            sampling,
            lambda index: self._render_many(index, texts),
            lambda reply: parse_lines(reply, len(texts)),
        )
        folds = []
        for number, text in enumerate(texts):
            said = [line[number] for line in lines]
            scores = [None if verdict is None else VERDICT_SCORES[verdict] for verdict in said]
            unread = [index for index, score in enumerate(scores) if score is None]
            own = await self._score_pieces(text, unread, scores)
            folds.append(
                Fold(keys[text], self.shown.document.id, shared + own, scores=tuple(scores))
            )
            shared = []  # the first text pays for the calls that all share
        await self.caller.store.finish_groundings(folds)

    async def _sample_pieces(
        self,
        scope: tuple[str, ...],
        sampling: Sampling,
        render: Callable[[int], tuple[Message, ...]],
        parse: Callable[[str], Parsed],
    ) -> tuple[list[str], list[Parsed]]:
        """Asks about every piece; returns the keys of the calls and the parsed replies."""
        keys: list[str] = []

        async def ask(index: int) -> Parsed:
            messages = render(index)
            call = self._call(sample_key(scope, messages, sampling, 0))
            keys.append(call.key)
            sampled = await self.caller.sample(call, messages, sampling)
            return parse(strip_thinking(sampled.completions[0].text))

        return keys, await together(map(ask, range(len(self.shown.pieces))), self.caller.gate)

    async def _score_pieces(
        self, text: str, indices: Sequence[int], scores: list[float | None]
    ) -> list[str]:
        """Scores pieces in place; returns the keys of the calls."""
        document_id, asked = self.shown.document.id, [self.shown.neutralise(text)]

        async def ask(index: int) -> str:
            messages = render_relevance(self.profile, document_id, self.shown.text(index), asked)
            call = self._call(choices_key(self._scope, messages, RELEVANCE_CHOICES))
            found = await self.caller.score_choices(call, messages, RELEVANCE_CHOICES)
            scores[index] = round(compute_relevance(found.probabilities), SCORE_DIGITS)
            return call.key

        return await together(map(ask, indices), self.caller.gate)

    async def _finish(self, fold: Fold) -> GroundingRecord:
        store = self.caller.store
        await store.finish_groundings([fold])
        record = store.find_grounding(fold.key)
        assert record is not None
        return record

    def _read(self, record: GroundingRecord) -> Grounded:
        if record.kept is not None:
            return Grounded(record.kept, None, record.unparsed)
        assert record.scores is not None
        known = tuple(score for score in record.scores if score is not None)
        relevance = known if len(known) == len(record.scores) else None
        return Grounded(keep(record.scores, self.config), relevance, record.unparsed)

    def _render_published(self, index: int, text: str) -> tuple[Message, ...]:
        question = self.shown.neutralise(text)
        asked = f"Question: {question}\n\nContext: {self.shown.text(index)}\n\n{_PUBLISHED_REQUEST}"
        return (
            Message(role="system", content=_PUBLISHED_SYSTEM),
            Message(role="user", content=asked),
        )

    def _render_many(self, index: int, texts: Sequence[str]) -> tuple[Message, ...]:
        system = self.profile.draw("system", self.shown.document.id).text
        asked = "\n".join(
            f"{number}. {self.shown.neutralise(text)}" for number, text in enumerate(texts, 1)
        )
        passage = f"Passage: {self.shown.text(index)}\n\n{MANY_REQUEST}\n{asked}"
        return (Message(role="system", content=system), Message(role="user", content=passage))

    def _call(self, key: str) -> CallId:
        return CallId(
            key=key,
            phase="ground",
            document_id=self.shown.document.id,
            node_id=_UNDER_WAY.get(),
        )

    @property
    def _scope(self) -> tuple[str, ...]:
        return ("ground", str(self.config.seed), self.shown.document.id)

    def _key(self, text: str, owner: str = "") -> str:
        mode = self.config.grounding
        extra = {
            "shortlist": f"{self.config.shortlist_k}{' kept' * self.config.keeps_shortlist}",
            "point": str(self.config.top_k),
        }.get(mode, "")
        return content_id("grounding", *self._scope, mode, extra, owner, text, length=32)


def parse_lines(text: str, number: int) -> tuple[str | None, ...]:
    r"""Returns the verdict of each numbered line; None where there is none.

    >>> parse_lines("1. yes\n3: no.", 3)
    ('yes', None, 'no')
    """
    found: list[str | None] = [None] * number
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and 1 <= int(match.group(1)) <= number:
            found[int(match.group(1)) - 1] = parse_verdict(match.group(2))
    return tuple(found)


def mean_relevance(grounded: Grounded) -> float:
    """Returns how well the kept pieces score; 0 when none is kept, 1 when none is scored."""
    if not grounded.kept:
        return 0.0
    if grounded.relevance is None:
        return 1.0
    return math.fsum(grounded.relevance[i] for i in grounded.kept) / len(grounded.kept)
