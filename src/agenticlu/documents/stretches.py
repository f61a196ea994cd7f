"""Tokens of long texts in little memory: stretch by stretch, joined where two stretches agree.

A tokenizer's own result takes some 200 bytes a token, gigabytes for a text of 20 MB. Here a token
takes twelve bytes, and only one stretch of text is in the tokenizer's hands at a time. Stretches
overlap: where a text is cut its tokens may differ, but not far from the cut. Two stretches are
joined in the middle of at least `AGREEMENT` tokens, before and after, that both have.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import tokenizers

STRETCH = 1 << 17
"""Characters that are tokenised at once."""
OVERLAPS = (1 << 10, 1 << 13, 1 << 15)
"""Characters that two stretches share: at first, and where they do not agree."""
AGREEMENT = 16
"""Tokens before and after a joint that two stretches must have in common."""


class Spans(Sequence[tuple[int, int]]):
    """(start, end) characters of tokens, in eight bytes each."""

    def __init__(self, starts: array[int] | None = None, ends: array[int] | None = None) -> None:
        self.starts = array("I") if starts is None else starts
        self.ends = array("I") if ends is None else ends

    def append(self, start: int, end: int) -> None:
        """Adds a token."""
        self.starts.append(start)
        self.ends.append(end)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Spans: ...

    def __getitem__(self, index: int | slice) -> tuple[int, int] | Spans:
        if isinstance(index, slice):
            return Spans(self.starts[index], self.ends[index])
        return self.starts[index], self.ends[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts, self.ends, strict=True)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Spans):
            return self.starts == other.starts and self.ends == other.ends
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text or of a stretch of it; characters are counted in the whole text."""

    ids: array[int]
    spans: Spans

    @classmethod
    def of(cls, encoding: tokenizers.Encoding, offset: int) -> Tokens:
        """Takes over a tokenizer's result for a stretch that begins at `offset`."""
        offsets = encoding.offsets
        starts = array("I", [start + offset for start, _ in offsets])
        ends = array("I", [end + offset for _, end in offsets])
        return cls(array("I", encoding.ids), Spans(starts, ends))

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, last: int) -> Tokens:
        """Returns the tokens from `first` up to, not including, `last`."""
        return Tokens(self.ids[first:last], self.spans[first:last])


def tokenise(encode: Callable[[str], tokenizers.Encoding], text: str) -> Iterator[Tokens]:
    """Yields the tokens of a text, some at a time; together they are those of the whole text.

    Where a text gives no hold (a tokenizer makes nothing of a run of 30,000 blanks, say), the
    stretches meet at a token of the first; tokens beside that place may then differ from those of
    the whole text.
    """
    before, first, end = Tokens.of(encode(text[:STRETCH]), 0), 0, STRETCH
    while end < len(text):
        after, start, joint, first_after = _join(encode, text, before, end)
        yield before.part(first, max(first, joint))
        before, first, end = after, first_after, start + STRETCH
    yield before.part(first, len(before))


def _join(
    encode: Callable[[str], tokenizers.Encoding], text: str, before: Tokens, end: int
) -> tuple[Tokens, int, int, int]:
    """Tokenises the stretch that follows one whose text ends at `end`.

    Returns its tokens, its first character, and the joint: the first token of the earlier stretch
    and of this one that stands behind it.
    """
    starts = before.spans.starts
    for overlap in OVERLAPS:
        index = bisect.bisect_left(starts, end - overlap)
        # Where a token begins, a run of one character is cut as the whole text cuts it.
        start = starts[index] if index < len(starts) else end - overlap
        after = Tokens.of(encode(text[start : start + STRETCH]), start)
        joint = _agreement(before, after, index)
        if joint is not None:
            return after, start, *joint
    return after, start, index, 0


def _agreement(before: Tokens, after: Tokens, index: int) -> tuple[int, int] | None:
    """Finds a token in whose neighbourhood two stretches agree, as near as can be to the middle.

    Args:
        before: The earlier stretch.
        after: The later one.
        index: Token of the earlier one at which the later one begins.
    """
    starts = before.spans.starts
    middle = (index + len(before)) // 2
    for distance in range(len(before) - middle):
        for token in {middle - distance, middle + distance}:
            same = bisect.bisect_left(after.spans.starts, starts[token])
            if min(token, same) < AGREEMENT or starts[token] == starts[token - 1]:
                continue
            one = before.part(token - AGREEMENT, token + AGREEMENT)
            if len(one) == 2 * AGREEMENT and one == after.part(same - AGREEMENT, same + AGREEMENT):
                return token, same
    return None
