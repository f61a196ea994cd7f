"""The one driver of the dialogue, and the relevance of pieces to a question.

Asking, evaluation and search run their dialogues through `run_dialogue` over a `ShownDocument`.
Relevance is the model's verdict on one piece (the probabilities of its first token) or BM25 over
words; `ask --spans`, grounding in search and the evaluation's retrieval share request, score and
ranking.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agenticlu.core.records import Document, Message, Piece, Turn, Usage
from agenticlu.core.words import search_terms, splits_word
from agenticlu.dialogue.steps import FULL_ROUND, MAX_TOKENS, Dialogue, Profile, Request
from agenticlu.documents import Marks, mark, neutralise, parse_marks, render_part, split
from agenticlu.documents.tokens import MAX_TEMPLATE_TOKENS, Tokenizer
from agenticlu.engines.base import Engine, Sampled
from agenticlu.evaluation.scoring.canonical import canonical_tokens

ROUND_TOKENS = sum(MAX_TOKENS[kind] + 3 * MAX_TEMPLATE_TOKENS for kind in FULL_ROUND)
"""Window that one round needs beside its first request."""
NOTHING_KEPT = "(No paragraph was found to help.)"
"""Takes the document's place when no piece is shown."""
EDGE_SHARE = 8
"""A piece with its edges reaches this fraction of its length into each neighbour."""


@dataclass(frozen=True)
class ShownDocument:
    """A document as models are shown it: in marked pieces, with control tokens neutralised."""

    document: Document
    pieces: tuple[Piece, ...]
    controls: tuple[str, ...] = ()
    """The model's own control tokens, beside those known by their look."""

    def view(self, only: Collection[int] | None = None) -> str:
        """Returns the marked pieces, or those of them with the given indices."""
        marked = mark(self.document, self.pieces, only, controls=self.controls)
        return marked if only is None else marked or NOTHING_KEPT

    def text(self, index: int, *, edges: bool = False) -> str:
        """Returns one piece without markers; of several sources, below the name of its own.

        Args:
            index: Of the piece.
            edges: Add the edges of its neighbours, whole words of them: then neighbours overlap,
                and a fact cut by a border is whole in one of them.
        """
        piece, text = self.pieces[index], self.document.text
        start, end = piece.start, piece.end
        part = self.document.part_of(start)
        if edges:
            edge = (end - start) // EDGE_SHARE
            first, last = (0, len(text)) if part is None else (part.start, max(part.end, end))
            start, end = max(first, start - edge), min(last, end + edge)
            while start < piece.start and start > first and splits_word(text, start):
                start += 1
            while end > piece.end and end < last and splits_word(text, end):
                end -= 1
        shown = self.neutralise(text[start:end]).strip()
        return shown if part is None else f"{render_part(part, self.controls)}\n{shown}"

    def neutralise(self, text: str) -> str:
        """Returns a text whose markers and control tokens are broken; see `documents`."""
        return neutralise(text, self.controls)

    def named(self, reply: str, only: Collection[int] | None = None) -> Marks:
        """Reads the pieces that a reply names.

        Args:
            reply: To a request to point back.
            only: Pieces that the model was shown; others count as out of range. None: all.
        """
        marks = parse_marks(reply, len(self.pieces))
        if only is None:
            return marks
        hidden = [index for index in marks.valid if index not in only]
        return Marks(
            valid=tuple(index for index in marks.valid if index in only),
            out_of_range=tuple(sorted((*marks.out_of_range, *hidden))),
            duplicated=tuple(index for index in marks.duplicated if index in only),
        )


def show_document(
    document: Document,
    tokenizer: Tokenizer,
    piece_tokens: int,
    pieces: Sequence[Piece] | None = None,
) -> ShownDocument:
    """Splits a document for a model with this tokenizer, unless its pieces are given."""
    cut = split(document, tokenizer, piece_tokens) if pieces is None else tuple(pieces)
    return ShownDocument(document, cut, control_tokens(tokenizer))


def control_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Returns the control tokens of a tokenizer that knows them, such as '<|im_end|>'."""
    controls: tuple[str, ...] = getattr(tokenizer, "controls", ())
    return controls


def count_messages(messages: Sequence[Message], tokenizer: Tokenizer) -> int:
    """Returns the tokens of a conversation, chat template included (an upper estimate)."""
    return sum(tokenizer.count(message.content) + MAX_TEMPLATE_TOKENS for message in messages)


async def run_dialogue(
    dialogue: Dialogue,
    sample: Callable[[Request], Awaitable[Sampled]],
    *,
    may_ask: Callable[[Dialogue, Request], bool] | None = None,
    after_turn: Callable[[Dialogue, Turn], Awaitable[Dialogue]] | None = None,
) -> Dialogue:
    """Asks turn by turn until the dialogue is over or may not continue.

    Args:
        dialogue: Where to start.
        sample: Asks a model; the first completion becomes the turn.
        may_ask: Called before every request; False ends the dialogue there.
        after_turn: Called with the advanced dialogue and its last turn; returns the dialogue to go
            on with, which may show another view of the document.

    Returns:
        The dialogue with all its turns.
    """
    while (request := dialogue.next_request()) is not None:
        if may_ask is not None and not may_ask(dialogue, request):
            break
        sampled = await sample(request)
        turn = request.turn(sampled.completions[0], sampled.usage)
        dialogue = dialogue.advance(turn)
        if after_turn is not None:
            dialogue = await after_turn(dialogue, turn)
    return dialogue


VERDICT_SCORES = {"yes": 1.0, "maybe": 0.5, "no": 0.0}
RELEVANCE_CHOICES = tuple(VERDICT_SCORES)
RELEVANT = 0.5
"""Least relevance of a piece that is kept when reading by spans."""
KEPT_AT_LEAST = 4
"""Pieces shown when none is relevant: the likeliest ones."""
SCANS_IN_FLIGHT = 16


def render_relevance(
    profile: Profile, document_id: str, passage: str, questions: Sequence[str]
) -> tuple[Message, ...]:
    """Returns the relevance request for one passage: passage first, question last.

    All questions about a passage share every token up to the question, so its keys and values are
    computed once. The wordings depend on the document alone.
    """
    system = profile.draw("system", document_id).text
    instruction = profile.draw("relevance", document_id).text
    asked = "\n".join(f"Question: {question}" for question in questions)
    return (
        Message(role="system", content=system),
        Message(role="user", content=f"Passage: {passage.strip()}\n\n{instruction}\n{asked}"),
    )


def compute_relevance(probabilities: Mapping[str, float]) -> float:
    """Returns the relevance in [0, 1] that a model gives: P(yes) + P(maybe) / 2.

    >>> compute_relevance({"yes": 0.5, "maybe": 0.2, "no": 0.3})
    0.6
    """
    return sum(score * probabilities.get(choice, 0.0) for choice, score in VERDICT_SCORES.items())


def best_of(scores: Mapping[int, float], k: int | None = None) -> tuple[int, ...]:
    """Returns the indices of the `k` best scores, best first; of equal ones the first.

    >>> best_of({0: 0.2, 1: 0.9, 2: 0.9}, 2)
    (1, 2)
    """
    return tuple(sorted(scores, key=lambda index: (-scores[index], index))[:k])


# --- By the model ---------------------------------------------------------------------------------


@dataclass
class PieceScanner:
    """Scores every piece of a document against questions, and remembers the best score of each.

    Args:
        shown: The document.
        profile: Wordings.
        engine: Scores.
    """

    shown: ShownDocument
    profile: Profile
    engine: Engine
    scores: dict[int, float] = field(default_factory=dict)
    num_relevant: int = 0
    num_left_out: int = 0
    """Relevant pieces for which there was no room."""

    async def scan(
        self, question: str, on_piece: Callable[[int], None], only: Collection[int] | None = None
    ) -> Usage:
        """Scores pieces against one more question.

        Args:
            question: Or a clarification.
            on_piece: Called with the number of pieces scored so far.
            only: Indices of the pieces to score; None: all.

        Raises:
            EngineError: A piece could not be scored.
        """
        limit = asyncio.Semaphore(SCANS_IN_FLIGHT)
        question = self.shown.neutralise(question)
        document_id = self.shown.document.id
        done = 0

        async def score(index: int) -> Usage:
            nonlocal done
            passage = self.shown.text(index, edges=True)
            messages = render_relevance(self.profile, document_id, passage, [question])
            async with limit:
                found = await self.engine.score_choices(
                    messages, RELEVANCE_CHOICES, session=document_id
                )
            done += 1
            on_piece(done)
            relevance = compute_relevance(found.probabilities)
            self.scores[index] = max(relevance, self.scores.get(index, 0.0))
            return found.usage

        indices = range(len(self.shown.pieces)) if only is None else only
        tasks = [asyncio.create_task(score(index)) for index in indices]
        try:
            return sum(await asyncio.gather(*tasks), Usage())
        finally:  # a piece that fails, or an interrupt, ends them all
            for task in tasks:
                task.cancel()

    def choose(self, room: int, cost: Callable[[int], int]) -> tuple[int, ...]:
        """Returns the pieces to show, ascending: the most relevant ones that fit.

        Args:
            room: Tokens that there are for them.
            cost: Tokens that one of them takes.
        """
        ranked = best_of(self.scores)
        relevant = [index for index in ranked if self.scores[index] >= RELEVANT]
        wanted = relevant or ranked[:KEPT_AT_LEAST]
        kept: list[int] = []
        for index in wanted:
            room -= cost(index)
            if room < 0:
                break
            kept.append(index)
        self.num_relevant, self.num_left_out = len(relevant), len(wanted) - len(kept)
        return tuple(sorted(kept))


# --- By words -------------------------------------------------------------------------------------


class Bm25:
    """BM25 over texts that are given as words (Robertson's formula, Lucene's non-negative idf).

    >>> [round(score, 2) for score in Bm25([["a", "kite"], ["a", "lamp"]]).score(["kite"])]
    [0.69, 0.0]
    """

    def __init__(self, texts: Iterable[Sequence[str]], *, k1: float = 1.5, b: float = 0.75) -> None:
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)
        lengths: list[int] = []
        for index, words in enumerate(texts):
            lengths.append(len(words))
            for word, count in Counter(words).items():
                self._counts[word][index] = count
        mean_length = sum(lengths) / max(len(lengths), 1) or 1.0
        self._norms = [k1 * (1 - b + b * length / mean_length) for length in lengths]
        self._k1 = k1

    def score(self, query: Sequence[str]) -> list[float]:
        """Returns the score of each text; words of the query count once."""
        scores = [0.0] * len(self._norms)
        for word in dict.fromkeys(query):
            holding = self._counts.get(word, {})
            idf = math.log(1 + (len(scores) - len(holding) + 0.5) / (len(holding) + 0.5))
            for index, count in holding.items():
                scores[index] += idf * count * (self._k1 + 1) / (count + self._norms[index])
        return scores


class PieceIndex:
    """Ranks the pieces of a document by BM25; built when first used.

    Args:
        shown: The document.
    """

    def __init__(self, shown: ShownDocument) -> None:
        self._shown = shown

    @functools.cached_property
    def _bm25(self) -> Bm25:
        shown = self._shown
        # One piece's words at a time: those of many megabytes are not held together.
        return Bm25(search_words(shown.text(piece.index)) for piece in shown.pieces)

    def pick(self, question: str, k: int) -> tuple[int, ...]:
        """Returns the `k` best pieces, ascending; where nothing tells them apart, the first."""
        scores = self._bm25.score(search_words(question))
        return tuple(sorted(best_of(dict(enumerate(scores)), k)))

    def find(self, words: str, k: int) -> tuple[int, ...]:
        """Returns the pieces that hold any of the words, at most `k`, the best first."""
        scores = dict(enumerate(self._bm25.score(search_words(words))))
        return tuple(index for index in best_of(scores, k) if scores[index] > 0)


def search_words(text: str) -> list[str]:
    """Returns the terms of a text for retrieval; pairs of letters where words have no spaces.

    >>> search_words("The café's kite: ปีนี้")
    ['ปีนี้', 'cafe', 's', 'kite']
    """
    return search_terms(re.sub("['’]", " ", text), canonical_tokens)
