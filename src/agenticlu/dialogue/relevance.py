"""Relevance of pieces to a question: a model's verdict on each, and BM25 over their words.

The model is shown one piece and the question, and the probabilities of its first token give the
score. `ask --spans`, grounding in search and the evaluation's retrieval share request, score and
ranking.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agenticlu.core.records import Message, Usage
from agenticlu.dialogue.profiles import Profile
from agenticlu.dialogue.run import ShownDocument
from agenticlu.engines.base import Engine
from agenticlu.evaluation.scoring.answers import canonical_tokens

VERDICT_SCORES = {"yes": 1.0, "maybe": 0.5, "no": 0.0}
RELEVANCE_CHOICES = tuple(VERDICT_SCORES)
RELEVANT = 0.5
"""Least relevance of a piece that is kept when reading by spans."""
KEPT_AT_LEAST = 4
"""Pieces shown when none is relevant: the likeliest ones."""
SCANS_IN_FLIGHT = 16
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7ff\uf900-\ufaff]")
"""Letters of scripts that are written without spaces between words, or whose words inflect by
syllables."""


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

    async def scan(self, question: str, on_piece: Callable[[int], None]) -> Usage:
        """Scores all pieces against one more question.

        Args:
            question: Or a clarification.
            on_piece: Called with the number of pieces scored so far.

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

        tasks = [asyncio.create_task(score(piece.index)) for piece in self.shown.pieces]
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

    def __init__(self, texts: Sequence[Sequence[str]], *, k1: float = 1.5, b: float = 0.75) -> None:
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)
        for index, words in enumerate(texts):
            for word, count in Counter(words).items():
                self._counts[word][index] = count
        mean_length = sum(map(len, texts)) / max(len(texts), 1) or 1.0
        self._norms = [k1 * (1 - b + b * len(words) / mean_length) for words in texts]
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
    """Ranks the pieces of a document by BM25.

    Args:
        shown: The document.
    """

    def __init__(self, shown: ShownDocument) -> None:
        self._bm25 = Bm25([search_words(shown.text(piece.index)) for piece in shown.pieces])

    def pick(self, question: str, k: int) -> tuple[int, ...]:
        """Returns the `k` best pieces, ascending; where nothing tells them apart, the first."""
        scores = self._bm25.score(search_words(question))
        return tuple(sorted(best_of(dict(enumerate(scores)), k)))


def search_words(text: str) -> list[str]:
    """Returns the words of a text for retrieval; pairs of letters where words have no spaces.

    >>> search_words("The kite: 水坝由")
    ['kite', '水坝', '坝由']
    """
    words: list[str] = []
    for word in canonical_tokens(text):
        if len(word) > 2 and _UNSPACED.search(word):
            words += [word[i : i + 2] for i in range(len(word) - 1)]
        else:
            words.append(word)
    return words
