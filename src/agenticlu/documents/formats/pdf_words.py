"""The words of a PDF page, each with its place, from pdfium's text.

Places are in the page's own points: the origin is at the lower left before any rotation.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise, repeat
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pypdfium2.raw as pdfium

HYPHEN_AT_LINE_END = "\ufffe"
"""What pdfium writes for a hyphen and the line end after it."""
_NEW_LINES = 1 << 20
"""Numbers of lines above this are ours."""
UNKNOWN = "\ufffd"
"""Stands for a glyph of which the file does not say what character it is."""
RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_WIDE_ONE = re.compile(f"[{_WIDE}]")
_TOKEN = re.compile(f"[{_WIDE}]|[^\\s{HYPHEN_AT_LINE_END}{_WIDE}]{{1,24}}")
"""A character of a script without spaces, or a word; long ones in parts, to place them well."""
_PRESENTATION = re.compile("[\ufb00-\ufb06\ufb1d-\ufdff\ufe70-\ufefc]")
"""Ligatures and contextual shapes: glyphs, not letters."""
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ue000-\uf8ff]")
_SYMBOLS = {
    "\uf0b7": "•",
    "\uf0a7": "▪",
    "\uf0d8": "➢",
    "\uf0fc": "✓",
    "\uf0a8": "◦",
    "\uf06f": "o",
}
"""Bullets of the Symbol and Wingdings fonts, which have no other code."""
_ACCENTS = {
    "¨": "\u0308", "´": "\u0301", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c", "˚": "\u030a",
    "˘": "\u0306", "˙": "\u0307", "¯": "\u0304",
}  # fmt: skip
"""Accents that older TeX sets as glyphs of their own, before their letters."""
_ACCENT_REACH = 30
"""Words before and after an accent among which its letter is looked for."""
_ACCENTED = re.compile(f"([{''.join(_ACCENTS)}])([^\\W\\d_])")
_DIGITS = re.compile(r"\d{2,}")
SMALL = 0.85
"""Of the height of the digits beside it; a smaller digit is a power, an index or a note's mark."""
Frame = Literal["right", "up", "down", "left"]
"""Where text runs to, in the page's own coordinates; vertical writing runs down."""


Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def is_wide(text: str) -> bool:
    """Whether all characters are of scripts that set no spaces between words."""
    return all(_WIDE_ONE.match(char) for char in text)


class Word(NamedTuple):
    """A word, or a part of one."""

    text: str
    box: Box
    line: int = -1
    """Number of the line in pdfium's text; -1 for what does not come from there."""
    spaced: bool = True
    """Whether white space or a line end stands before it."""
    frame: Frame | None = None
    """Where it runs to; None for a single character."""
    rtl: bool = False
    """Whether it is of a script that is written from right to left."""
    hyphenated: bool = False
    """Whether pdfium found a hyphen and a line end after it."""


class Words(NamedTuple):
    """The words of a page in the order of the file."""

    words: list[Word]
    num_unknown: int
    """Glyphs without a character."""


def read_words(textpage: Any) -> Words:
    """Reads the words of a pdfium text page (the raw handle)."""
    text = _read_text(textpage)
    spans = [match.span() for match in _TOKEN.finditer(text)]
    if not spans:
        return Words([], 0)
    codes = np.frombuffer(f"{text}\n".encode("utf-32-le", "replace"), np.uint32)
    starts, ends = np.array(spans).T
    firsts, lasts = _boxes(textpage, starts.tolist()), _boxes(textpage, (ends - 1).tolist())
    boxes = np.hstack(
        [np.minimum(firsts[:, :2], lasts[:, :2]), np.maximum(firsts[:, 2:], lasts[:, 2:])]
    )
    heights = firsts[:, 3] - firsts[:, 1], lasts[:, 3] - lasts[:, 1], boxes[:, 3] - boxes[:, 1]
    is_unknown = _calls(pdfium.FPDFText_HasUnicodeMapError, textpage, starts.tolist())
    is_break = (codes == 10) | (codes == ord(HYPHEN_AT_LINE_END))
    words = list(
        map(
            Word,
            [text[start:end] for start, end in spans],
            map(tuple, boxes.tolist()),
            np.cumsum(is_break)[starts].tolist(),
            (starts != np.concatenate([[-1], ends[:-1]])).tolist(),
            _frames(lasts - firsts, ends - starts),
            repeat(False),
            (codes[ends] == ord(HYPHEN_AT_LINE_END)).tolist(),
        )
    )
    _place_accents(textpage, words, spans)
    odd = np.logical_or.reduceat(np.append(_is_odd(codes), False), np.array(spans).ravel())[::2]
    unknown = 0
    odd[np.searchsorted(starts, _size_changes(textpage, codes), "right") - 1] = True
    for i in np.flatnonzero(odd | (heights[2] < 0.5) | np.array(is_unknown)).tolist():
        words[i], number = _mend(textpage, words[i], *spans[i])
        unknown += number
    is_tall = (heights[2] > 1.6 * np.maximum(heights[0], heights[1])) & (ends - starts > 1)
    for i in np.flatnonzero(is_tall).tolist()[::-1]:
        words[i : i + 1] = _split_rows(textpage, words[i], *spans[i])
    return Words([word for word in words if word.text], unknown)


def _size_changes(textpage: Any, codes: np.ndarray) -> np.ndarray:
    """Returns the digits that are followed by one of another size, as in 10⁶."""
    is_digit = (codes >= ord("0")) & (codes <= ord("9"))
    pairs = np.flatnonzero(is_digit[:-1] & is_digit[1:])
    indices = np.union1d(pairs, pairs + 1)
    if not indices.size:
        return indices
    boxes = _boxes(textpage, indices.tolist())
    heights = np.zeros(len(codes))
    heights[indices] = boxes[:, 3] - boxes[:, 1]
    low, high = np.sort(np.stack([heights[pairs], heights[pairs + 1]]), axis=0)
    return np.extract(low < SMALL * high, pairs)


def _place_accents(textpage: Any, words: list[Word], spans: Sequence[tuple[int, int]]) -> None:
    """Joins accents that pdfium gives as words to the letters that they stand above."""
    for i, accent in enumerate(words):
        if accent.text not in _ACCENTS:
            continue
        left, bottom, right, top = accent.box
        middle, height = (left + right) / 2, top - bottom
        for j in range(max(0, i - _ACCENT_REACH), min(len(words), i + _ACCENT_REACH)):
            word = words[j]
            a, b, c, d = word.box
            if i == j or not (a <= middle <= c and abs(b + d - bottom - top) < height):
                continue
            if len(word.text) != spans[j][1] - spans[j][0]:
                continue
            boxes = _boxes(textpage, range(*spans[j]))
            at = int(np.abs((boxes[:, 0] + boxes[:, 2]) / 2 - middle).argmin())
            composed = _ACCENTED.sub(_accented, accent.text + word.text[at])
            if len(composed) == 1:
                words[j] = word._replace(text=word.text[:at] + composed + word.text[at + 1 :])
                words[i] = accent._replace(text="")
                break


def _split_rows(textpage: Any, word: Word, start: int, end: int) -> list[Word]:
    """Splits what pdfium took for a word, but stands in several lines: a column of numbers."""
    if abs(math.sin(pdfium.FPDFText_GetCharAngle(textpage, start))) > 0.1 or len(word.text) != (
        end - start
    ):
        return [word]
    parts: list[Word] = []
    for i, box in enumerate(_boxes(textpage, range(start, end)).tolist()):
        left, bottom, right, top = box
        last = parts[-1] if parts else None
        middle = (bottom + top) / 2
        if last is not None and last.box[1] < middle < last.box[3]:
            box = (last.box[0], min(bottom, last.box[1]), right, max(top, last.box[3]))
            parts[-1] = last._replace(text=last.text + word.text[i], box=box)
            continue
        line = word.line if last is None else start + i + _NEW_LINES
        parts.append(Word(word.text[i], (left, bottom, right, top), line, frame="right"))
    parts[0] = parts[0]._replace(spaced=word.spaced)
    parts[-1] = parts[-1]._replace(hyphenated=word.hyphenated)
    return parts


def _is_odd(codes: np.ndarray) -> np.ndarray:
    """Tells characters that need a closer look: controls, glyphs, accents, right to left."""
    return (
        (codes < 32)
        | ((codes >= 0x7F) & (codes < 0xA0))
        | ((codes >= 0x590) & (codes < 0x900))
        | ((codes >= 0xE000) & (codes < 0xF900))
        | ((codes >= 0xFB00) & (codes < 0xFF00))
        | np.isin(codes, [ord(accent) for accent in _ACCENTS])
    )


def _turn(token: str, boxes: np.ndarray) -> str:
    """Writes a word from right to left that pdfium gives as it is seen, from left to right."""
    middles = ((boxes[:, 0] + boxes[:, 2]) / 2).tolist()
    letters = [middle for char, middle in zip(token, middles, strict=True) if RTL.match(char)]
    steps = [b - a for a, b in pairwise(letters)]
    if sum(step > 0 for step in steps) <= sum(step < 0 for step in steps):
        return token
    # What is one glyph, such as lam and alef, is turned, too.
    order = sorted(range(len(token)), key=lambda i: (-middles[i], -i))
    turned = "".join(token[i] for i in order)
    return re.sub(r"\d[\d.,]*\d", lambda number: number.group()[::-1], turned)


def _accented(match: re.Match[str]) -> str:
    letter = match.group(2).replace("ı", "i")
    composed = unicodedata.normalize("NFC", letter + _ACCENTS[match.group(1)])
    return composed if len(composed) == 1 else match.group()


def _mend(textpage: Any, word: Word, start: int, end: int) -> tuple[Word, int]:
    """Returns a word as it is meant, and how many of its glyphs are unknown."""
    token, frame, box, unknown = word.text, word.frame, word.box, 0
    rtl = RTL.search(token) is not None
    if rtl and frame == "left":
        frame = "right"
    if box[3] - box[1] < 0.5:
        box = _tight_box(textpage, start, end)
    if pdfium.FPDFText_HasUnicodeMapError(textpage, start) or _CONTROLS.search(token):
        token, unknown = _mark_unknown(textpage, token, start)
    token = _mark_power(textpage, token, start)
    if rtl and len(token) == end - start > 1:
        token = _turn(token, _boxes(textpage, range(start, end)))
    token = _PRESENTATION.sub(lambda m: unicodedata.normalize("NFKC", m.group()), token)
    token = _ACCENTED.sub(_accented, token)
    return word._replace(text=token, box=box, frame=frame, rtl=rtl), unknown


def _calls(function: Any, textpage: Any, indices: Sequence[int], *outputs: Any) -> list[int]:
    """Calls a function of pdfium for many characters, several times faster than one by one."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    kinds = [ctypes.c_void_p, ctypes.c_int, *(ctypes.c_void_p for _ in outputs)]
    plain = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(address)
    handle = ctypes.cast(textpage, ctypes.c_void_p).value
    return list(map(plain, repeat(handle), indices, *outputs))


def _boxes(textpage: Any, indices: Sequence[int]) -> np.ndarray:
    """Returns left, bottom, right and top of characters, as high as their font."""
    buffer = np.zeros((len(indices), 4), np.float32)
    first = buffer.ctypes.data
    rows = range(first, first + buffer.nbytes, buffer.strides[0])
    _calls(pdfium.FPDFText_GetLooseCharBox, textpage, indices, rows)
    return buffer[:, [0, 3, 2, 1]].astype(np.float64)  # FS_RECTF: left, top, right, bottom


def _frames(steps: np.ndarray, sizes: np.ndarray) -> list[Frame | None]:
    """Returns where words run whose last character lies so far from its first."""
    across, up = steps[:, 0], steps[:, 1]
    kinds = np.where(across < 0, 3, 0)
    kinds[np.abs(up) > 1.5 * np.abs(across)] = 2
    kinds[up > 1.5 * np.abs(across)] = 1
    kinds[sizes == 1] = 4
    names = (*get_args(Frame), None)
    return [names[kind] for kind in kinds.tolist()]


def frame_of(across: float, up: float, rtl: bool) -> Frame:
    """Returns where text runs whose last character lies so far from its first."""
    if abs(up) > 1.5 * abs(across):
        return "up" if up > 0 else "down"
    return "left" if across < 0 and not rtl else "right"


def _read_text(textpage: Any) -> str:
    """Returns the text such that character i is pdfium's character i."""
    size = max(0, pdfium.FPDFText_CountChars(textpage))
    buffer = (ctypes.c_ushort * (size + 1))()
    units = pdfium.FPDFText_GetText(textpage, 0, size, buffer)
    text = bytes(buffer)[: 2 * max(0, units - 1)].decode("utf-16-le", "replace")
    if len(text) == size:
        return text
    codes = (pdfium.FPDFText_GetUnicode(textpage, i) for i in range(size))
    return "".join(
        HYPHEN_AT_LINE_END
        if code == 2 and pdfium.FPDFText_IsHyphen(textpage, i)
        else chr(code)
        if 0 < code < 0xD800 or 0xDFFF < code < 0x110000
        else UNKNOWN
        for i, code in enumerate(codes)
    )


def _tight_box(textpage: Any, start: int, end: int) -> Box:
    """Returns the box of the ink: some fonts have no height."""
    sides = [ctypes.c_double() for _ in range(4)]
    boxes = []
    for i in range(start, end):
        if pdfium.FPDFText_GetCharBox(textpage, i, *map(ctypes.byref, sides)):
            left, right, bottom, top = (side.value for side in sides)
            boxes.append((left, bottom, right, top))
    if not boxes:
        return 0.0, 0.0, 0.0, 0.0
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    bottom = min(bottoms)
    return min(lefts), bottom, max(rights), max(*tops, bottom + 1)


def _mark_unknown(textpage: Any, token: str, start: int) -> tuple[str, int]:
    chars = [
        UNKNOWN
        if char not in _SYMBOLS
        and (pdfium.FPDFText_HasUnicodeMapError(textpage, start + i) or _CONTROLS.match(char))
        else _SYMBOLS.get(char, char)
        for i, char in enumerate(token)
    ]
    return "".join(chars), chars.count(UNKNOWN)


def _mark_power(textpage: Any, token: str, start: int) -> str:
    """Writes 10^6 where a smaller, raised 6 follows the 10."""
    for found in reversed(list(_DIGITS.finditer(token))):
        first, end = found.span()
        boxes = [_loose_box(textpage, start + i) for i in range(first, end)]
        tallest = max(top - bottom for bottom, top in boxes)
        small = [top - bottom < SMALL * tallest for bottom, top in boxes]
        if any(small):
            token = token[:first] + _scripts(token[first:], boxes, small) + token[end:]
    return token


def _loose_box(textpage: Any, index: int) -> tuple[float, float]:
    """Returns the bottom and top of a character, as high as its font."""
    box = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(textpage, index, ctypes.byref(box))
    return box.bottom, box.top


def _scripts(text: str, boxes: list[tuple[float, float]], small: list[bool]) -> str:
    """Writes the digits at the beginning of a text with marks before the small ones."""
    out = []
    at = 0
    for is_small, group in itertools.groupby(small):
        end = at + len(list(group))
        digits = text[at:end]
        if is_small:
            beside = boxes[at - 1 if at else end]
            sign = "^" if sum(boxes[at]) > sum(beside) else "_"
            digits = sign + (f"{{{digits}}}" if text[end : end + 1].isalnum() else digits)
        out.append(digits)
        at = end
    return "".join(out)
