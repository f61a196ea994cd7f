"""Fits haystacks to a length: grown in steps, shrunk where a row is still too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from agenticlu.evaluation.items import DoesNotFitError
from agenticlu.evaluation.tasks import TaskRequest

T = TypeVar("T")


def largest_fit(
    fits: Callable[[int], bool], step: int, *, start: int = 0, most: int | None = None
) -> int:
    """Returns the largest of start, start + step, ... that fits, as growing step by step finds it.

    Args:
        fits: Whether a size fits; larger sizes are taken not to where a smaller one does not.
        step: By how much the size grows.
        start: First size; 0 always fits.
        most: Sizes end here, though this may be no whole step.

    Returns:
        The size; `start - step` when not even `start` fits.

    >>> largest_fit(lambda n: n <= 130, 25)
    125
    """

    def size(steps: int) -> int:
        grown = start + steps * step
        return grown if most is None else min(grown, most)

    if start and not fits(size(0)):
        return start - step
    low, high = 0, 1
    while fits(size(high)):
        if size(high) == most:
            return most
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if fits(size(middle)):
            low = middle
        else:
            high = middle
    return size(low)


class Fitter(Generic[T]):
    """Makes the rows of one task as long as one length allows.

    The first row's haystack grows step by step while the row fits; the others get its size, and a
    row that is still too long shrinks step by step. Where not even one step fits, single units
    (lines, words, pairs) are tried, so that short lengths work where they can at all.

    Args:
        request: The task and its length.
        step: By how much the haystack grows and shrinks.
        start: Size that growing starts from.
        least: Smallest size that makes a row.
        most: Largest size that there is.
        usable: Whether a size may be used, however long its row is.
        room: Tokens at most; None takes the request's length.
    """

    def __init__(
        self,
        request: TaskRequest,
        *,
        step: int,
        start: int = 0,
        least: int = 1,
        most: int | None = None,
        usable: Callable[[int], bool] = lambda size: True,
        room: int | None = None,
    ) -> None:
        self._request = request
        self._step = step
        self._start = start
        self._least = least
        self._most = most
        self._usable = usable
        self._room = request.length if room is None else room
        self._size: int | None = None

    def row(self, build: Callable[[int], T], tokens: Callable[[T], int]) -> T:
        """Returns the next row.

        Args:
            build: Makes the row with a haystack of the given size; the same row for the same size.
            tokens: Counts a row, its prompt, answer and reply.

        Raises:
            DoesNotFitError: Its shortest form is too long.
        """

        def fits(size: int) -> bool:
            return tokens(build(size)) <= self._room

        if self._size is None:
            grown = largest_fit(fits, self._step, start=self._start, most=self._most)
            self._size = size = self._settle(grown, fits)
        else:
            size = self._settle(self._size, fits)
        return build(size)

    def _settle(self, size: int, fits: Callable[[int], bool]) -> int:
        """Returns the first size from `size` downwards that fits and may be used."""
        for top, step in ((size, self._step), (self._below(size + self._step), 1)):
            found = self._shrunk(top, step, fits)
            while found >= self._least and not self._usable(found):
                found -= step
            if found >= self._least:
                return found
        raise DoesNotFitError(self._request.task, self._request.length)

    def _below(self, size: int) -> int:
        return size - 1 if self._most is None else min(size - 1, self._most)

    def _shrunk(self, size: int, step: int, fits: Callable[[int], bool]) -> int:
        """Returns the first of size, size - step, ... that fits, or one below the least."""
        most_steps = (size - self._least) // step + 1
        low, high = -1, 0  # low is too long; high is the first that is not, if it is known
        while high < most_steps and not fits(size - high * step):
            low, high = high, 2 * high + 1
        high = min(high, most_steps)
        while high - low > 1:
            middle = (low + high) // 2
            if fits(size - middle * step):
                high = middle
            else:
                low = middle
        return size - high * step
