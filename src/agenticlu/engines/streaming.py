"""Text that comes token by token: what of it is certain, and whom it is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agenticlu.engines.base import TokenLogprob

HALF_CHARACTER = "\ufffd"
UNSETTLED_TOKENS = 8
"""More tokens than a character can have: those that have formed none by then never will."""


@dataclass(eq=False)
class Telling:
    """Hands on the text of one reply while it is wanted."""

    on_text: Callable[[str], None]
    told: bool = False
    """Whether any was handed on: asking again would tell it twice."""
    ended: bool = False
    """Whether nobody listens any more; what is still under way from another thread is lost."""

    def __call__(self, text: str) -> None:
        """Takes more of the text; nothing, where it is empty."""
        if text and not self.ended:
            self.told = True
            self.on_text(text)


@dataclass(eq=False)
class StopText:
    """The text before the first stop, of one that comes in parts.

    Held back is what may turn into a stop.

    >>> text = StopText(("END",))
    >>> [text.feed(part) for part in ("The mill", " EN", "D of")]
    ['The mill', ' ', '']
    """

    stops: tuple[str, ...] = ()
    pending: str = ""
    """Text that was not returned."""
    stopped: bool = False

    def feed(self, text: str) -> str:
        """Takes the next part of the text; returns what is now certain."""
        if self.stopped:
            return ""
        text = self.pending + text
        ends = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        self.stopped = bool(ends)
        end = min(ends) if ends else len(text) - self._held(text)
        self.pending = text[end:]
        return text[:end]

    def _held(self, text: str) -> int:
        """Returns how many characters at the end may be the beginning of a stop."""
        longest = 0
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


@dataclass(eq=False)
class ReplyText:
    """The text of a reply whose tokens come one by one, as far as it can no longer change.

    Held back are half a character, and what may turn into a stop. Each token costs the same,
    however long the reply is.

    >>> words = [" The", " mill", " EN", "D of"]
    >>> text = ReplyText(lambda ids: "".join(words[i] for i in ids), ("END",))
    >>> [text.feed(token)[0] for token in range(4)]
    [' The', ' mill', ' ', '']
    """

    decode: Callable[[Sequence[int]], str]
    stops: tuple[str, ...] = ()
    sent_chars: int = 0
    """Characters of text that `feed` has returned."""
    sent_details: int = 0
    """Log-probabilities that it has returned."""
    _tokens: list[int] = field(default_factory=list)
    """From the one before the first whose text is not settled."""
    _num_settled: int = 0
    """Of those, how many gave their text."""
    _details: deque[tuple[int, TokenLogprob]] = field(default_factory=deque)
    """Not yet sent, each with the number of characters sampled before it."""
    _text: StopText = field(init=False)

    def __post_init__(self) -> None:
        self._text = StopText(self.stops)

    def feed(
        self, token: int | str, details: TokenLogprob | None = None
    ) -> tuple[str, list[TokenLogprob]]:
        """Takes a token; returns the text that is now certain, with its log-probabilities.

        A text in place of a token is certain already.
        """
        if isinstance(token, str):
            self.sent_chars += len(token)
            return token, []
        if self._text.stopped:
            return "", []
        if details is not None:
            self._details.append((self.sent_chars + len(self._text.pending), details))
        text = self._text.feed(self._settle(token))
        if not text:
            return "", []
        self.sent_chars += len(text)
        told = []
        while self._details and self._details[0][0] < self.sent_chars:
            told.append(self._details.popleft()[1])
        self.sent_details += len(told)
        return text, told

    def _settle(self, token: int) -> str:
        """Returns the text of the tokens that form whole characters."""
        self._tokens.append(token)
        before = self.decode(self._tokens[: self._num_settled])
        after = self.decode(self._tokens)
        waiting = len(self._tokens) - self._num_settled
        if after.endswith(HALF_CHARACTER) and waiting <= UNSETTLED_TOKENS:
            return ""
        self._tokens = self._tokens[self._num_settled :]
        self._num_settled = len(self._tokens)
        return after[len(before) :]
