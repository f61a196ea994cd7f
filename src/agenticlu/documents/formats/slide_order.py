"""The order in which the boxes of a slide are read: columns of boxes, or rows, as they are spaced.

A recursive cut along the widest gaps (the XY-cut of G. Nagy and S. Seth, 1984): a heading and the
text below it stay together where they are closer to each other than to the next column.
"""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, top, width, height, in any unit."""
_SHRUNK = 0.05
"""Boxes may overlap by this part of their size on each side: text seldom fills them."""
_MAX_DEPTH = 40


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Returns the indexes of boxes in the order in which they are read.

    >>> reading_order([(0, 0, 4, 1), (5, 0, 4, 1), (0, 1.1, 4, 3), (5, 1.1, 4, 3)])
    [0, 2, 1, 3]
    >>> reading_order([(0, 0, 2, 1), (2.2, 0, 9, 1), (0, 4, 2, 1), (2.2, 4, 9, 1)])
    [0, 1, 2, 3]
    """
    return _order(boxes, list(range(len(boxes))), 0)


def _order(boxes: Sequence[Box], chosen: list[int], depth: int) -> list[int]:
    by_place = sorted(chosen, key=lambda index: (boxes[index][1], boxes[index][0]))
    if len(chosen) < 3 or depth > _MAX_DEPTH:
        return by_place
    columns, across = _cut(boxes, chosen, 0)
    rows, down = _cut(boxes, chosen, 1)
    groups = columns if across > down else rows
    if len(groups) < 2:
        return by_place
    return [index for group in groups for index in _order(boxes, group, depth + 1)]


def _cut(boxes: Sequence[Box], chosen: list[int], axis: int) -> tuple[list[list[int]], float]:
    """Returns the groups between the gaps along an axis (0: across), and the widest gap."""
    spans = sorted(
        (
            boxes[one][axis] + _SHRUNK * boxes[one][axis + 2],
            boxes[one][axis] + (1 - _SHRUNK) * boxes[one][axis + 2],
            one,
        )
        for one in chosen
    )
    groups: list[list[int]] = []
    end = widest = float("-inf")
    for start, stop, index in spans:
        if start > end:
            if groups:
                widest = max(widest, start - end)
            groups.append([])
        groups[-1].append(index)
        end = max(end, stop)
    return groups, widest
