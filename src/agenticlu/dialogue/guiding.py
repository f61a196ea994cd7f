"""What a reply may be where a model cannot hold the dialogue yet: a guide for each kind of turn.

A small model that never saw the dialogue repeats the question, writes essays, names nothing.
Guided, it asks in the form of a question, quotes a sentence of the pieces that grounding kept, and
answers with a span of what it quoted. What it asks, quotes and answers is its own choice, and
judges sift it as ever. The rules below are of English; elsewhere fewer texts are ruled out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from agenticlu.core.records import TurnKind
from agenticlu.core.words import holds
from agenticlu.dialogue.steps import Request
from agenticlu.documents.sentences import sentences
from agenticlu.engines.base import Sampled, Sampling
from agenticlu.evaluation.scoring.canonical import canonical_tokens

QUESTION_BEGINS = ("What", "Which", "Who", "When", "Where", "How", "Why", "In what", "In which")
QUESTION_END = "?"
_BROKEN_OFF = (".", "!", ":")
"""Before the question mark, these show that what began as a question became something else."""
VERDICTS = ("Yes", "No")
ANSWER_LABEL = "Answer: "
MOST_WORDS = 7
"""Words of an answer."""
MOST_SENTENCE_WORDS = 60
GUIDED_TOKENS = 160
"""Room for a guided reply: its texts end it, not its limit."""
_FUNCTION = frozenset(
    """
    a an and are as at be been before being but by can could did do does for from had has have he
    her his how i if in into is it its may more most not of on or over she so such than that the
    their them then there these they this those to under upon was were what when where which while
    who whom whose why will with would
    """.split()  # noqa: SIM905
) | {""}
"""Words that a span neither begins nor ends with: articles, prepositions, auxiliaries."""
_NUMBER = r"\d|(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand)\b"
_ANYTHING = re.compile("")
_KINDS = (
    (
        re.compile(r"(?i)\bhow (?:many|much|old|long|far|large|big|tall|high)\b"),
        re.compile(rf"(?i)\A\W?(?:{_NUMBER})\S*(?: \S+){{0,2}}\Z"),
    ),
    (re.compile(r"(?i)\b(?:when|what (?:year|date|percent\w*)|which year)\b"), re.compile(r"\d")),
    (re.compile(r"(?i)\b(?:who|whose|whom)\b"), re.compile(r"\A[A-Z]")),
)
"""What a question asks for, and how answers of that kind look."""
_TURNS = frozenset("but that when where which while who whom whose because although".split())  # noqa: SIM905
"""Words at which another clause begins."""
_WORD = re.compile(r"\S+")
_EDGES = "\"'“”‘’«»()[]{},.;:!?…–—-"


def guide(
    sampling: Sampling,
    request: Request,
    pieces: Sequence[str],
    question: str,
    hint: Sequence[str] = (),
) -> Sampling:
    """Returns the sampling of a turn with what its reply may be.

    Args:
        sampling: As without a guide.
        request: The turn's.
        pieces: Texts of the pieces that grounding kept.
        question: The one that is to be answered.
        hint: Known answers that a round may be given; see `list_replies`.
    """
    if request.kind == "clarify":
        return replace(sampling, begins=QUESTION_BEGINS, stop=(QUESTION_END,))
    # An answer is a part of what the round found, the sentence before it.
    texts = [request.messages[-2].content] if request.kind == "answer" else pieces
    among = list_replies(request.kind, texts, question, hint)
    most = max(sampling.max_tokens, GUIDED_TOKENS)
    return replace(sampling, among=among, max_tokens=most) if among else sampling


def close_questions(sampled: Sampled) -> Sampled:
    """Returns clarifications with the question mark at which they were stopped."""
    ended = tuple(
        replace(one, text=f"{one.text}{QUESTION_END}", token_ids=None)
        if one.finish_reason == "stop"
        else one
        for one in sampled.completions
    )
    return replace(sampled, completions=ended)


def is_about(clarification: str, question: str) -> bool:
    """Whether a guided clarification is a question about the same thing, and worth a round.

    >>> is_about("Who wrote it?", "Who wrote Emma?"), is_about("Who is Emma?", "Who wrote Emma?")
    (True, True)
    >>> is_about("What do you need?", "Who wrote Emma?"), is_about("Who. Emma.?", "Who is Emma?")
    (False, False)
    """
    shared = content_words(question) & content_words(clarification)
    return bool(shared) and clarification[-2:-1] not in _BROKEN_OFF


def list_replies(
    kind: TurnKind, texts: Collection[str], question: str, hint: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the texts of which a turn's reply must be one; none where it is not guided so.

    Args:
        kind: Of the turn.
        texts: What it may say: pieces that grounding kept; of an answer, what the round found.
        question: What is to be answered: answers do not repeat it, and are of its kind.
        hint: Known answers: findings hold one, where a sentence does, and answers are one.
    """
    if kind == "check":
        return VERDICTS
    if kind not in ("direct", "sub_answer", "answer"):
        return ()
    if kind == "answer" and (held := _holding(texts, hint)):
        return tuple(f"{ANSWER_LABEL}{answer}" for answer in dict.fromkeys(held.values()))
    found = dict.fromkeys(reply for text in texts for reply in _list_texts(kind, text, question))
    if kind == "sub_answer":
        return tuple(_prefer_related(_holding(found, hint) or found, question))
    wanted = _kind_of_answer(question)
    fitting = [reply for reply in found if wanted.search(reply.rpartition(ANSWER_LABEL)[2])]
    return tuple(fitting or found)


@functools.lru_cache(maxsize=512)
def _list_texts(kind: TurnKind, text: str, question: str) -> tuple[str, ...]:
    if kind != "sub_answer":
        return tuple(f"{ANSWER_LABEL}{span}" for span in list_spans(text, question))
    quotes = [" ".join(text[start:end].split()) for start, end in sentences(text)]
    quotes = [one for one in quotes if 3 <= len(one.split()) <= MOST_SENTENCE_WORDS]
    return tuple(quotes)


def _holding(texts: Iterable[str], answers: Sequence[str]) -> dict[str, str]:
    """Returns the texts that hold a known answer, and which."""
    golds = [(canonical_tokens(answer), answer) for answer in answers]
    held = {}
    for text in texts:
        words = canonical_tokens(text)
        found = next((answer for gold, answer in golds if gold and holds(words, gold)), None)
        if found is not None:
            held[text] = found
    return held


def _prefer_related(quotes: Collection[str], question: str) -> list[str]:
    """Returns the sentences that share nearly as many words with the question as any does."""
    asked = content_words(question)
    shared = {one: len(asked & content_words(one)) for one in quotes}
    least = max(max(shared.values(), default=0) - 1, 1)
    return [one for one in quotes if shared[one] >= least] or list(quotes)


def list_spans(text: str, question: str = "") -> Iterator[str]:
    """Yields the runs of a few words that may answer a question, without the marks around them.

    None goes past the end of a clause, begins or ends with a function word, or repeats a content
    word of the question.

    >>> list(list_spans("He died in New York (1943).", "When did he die in York?"))
    ['died', 'died in New', 'New', '1943']
    """
    words = list(_WORD.finditer(text))
    asked = content_words(question)
    for first in range(len(words)):
        for last in range(first, min(first + MOST_WORDS, len(words))):
            word = words[last].group()
            plain = _plain(word)
            if plain in asked or plain in _TURNS:
                break
            begins = _plain(words[first].group())
            span = text[words[first].start() : words[last].end()].strip(_EDGES)
            if span and plain not in _FUNCTION and begins not in _FUNCTION:
                yield " ".join(span.split())
            if word[-1] in ".,!?;:)" or begins in _FUNCTION:
                break


def _kind_of_answer(question: str) -> re.Pattern[str]:
    """Returns what an answer of the question's kind holds: a figure, a name, or anything."""
    for asked, looks in _KINDS:
        if asked.search(question):
            return looks
    return _ANYTHING


def content_words(text: str) -> frozenset[str]:
    """Returns the words of a text that say what it is about."""
    return frozenset(map(_plain, _WORD.findall(text))) - _FUNCTION


def _plain(word: str) -> str:
    """Returns a word as it is compared: no case, no marks, no possessive."""
    return word.strip(_EDGES).lower().removesuffix("'s").removesuffix("’s")
