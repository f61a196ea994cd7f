"""Line charts and stacked bars as inline SVG, drawn without a plotting package.

Why not matplotlib: its SVG bakes in colours and sizes, so a page would carry each chart twice for
light and dark, at 30-100 KB a chart, with generated ids that clash when several are inlined. The
few charts here need lines, bands, bars and points; drawn directly they take 2-6 KB each, take
their colours from the page's style sheet (`class="s1"`), keep text as text, have a title and a
description for screen readers, and need no optional package. They are drawn here rather than by
the page's script, so they are there without it, in print, and in tests without a browser.

All are drawn 360 units wide and shown at about that many pixels, on a phone as on a desktop, so
that their text has the size of the page's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
HEIGHT = 232
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 40
NUM_STYLES = 6


@dataclass(frozen=True)
class Style:
    """The look of a series: colour by number; dash and marker tell it apart without colour."""

    colour: int
    """1..NUM_STYLES; the style sheet knows the colour."""
    dashed: bool = False
    marker: int = 0
    """0 circle, 1 square, 2 triangle, 3 diamond."""


@dataclass(frozen=True)
class Point:
    """A point in data units."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Shown on hover and read aloud."""


@dataclass(frozen=True)
class Series:
    """A named line."""

    name: str
    style: Style
    points: tuple[Point, ...]
    strong: bool = True
    """Whether it stands out and shows its intervals; the others recede behind it."""


@dataclass(frozen=True)
class Segment:
    """One part of a stacked bar."""

    name: str
    value: float


@dataclass(frozen=True)
class Axes:
    """The labels of a line chart's axes."""

    x_label: str
    """Under the axis, with the unit."""
    y_label: str
    """Named to screen readers."""
    x_ticks: Sequence[tuple[float, str]] | None = None
    """(place, text); chosen from the data when None."""
    y_share: bool = False
    """Whether y is a share: from 0 to 1, labelled in percent. Else the data give the range."""
    x_log: bool = False
    x_whole: bool = False
    """Whether x counts something, so that ticks between whole numbers mean nothing."""


class _Frame:
    """Places data units in the drawing."""

    def __init__(self, drawn: Sequence[Point], axes: Axes) -> None:
        self._log = axes.x_log
        x_low, x_high = min(p.x for p in drawn), max(p.x for p in drawn)
        ticks = axes.x_ticks
        if ticks is None:
            ticks = _log_ticks(x_low, x_high) if axes.x_log else None
        self.x_ticks = _ticks(x_low, x_high, 5, whole=axes.x_whole) if ticks is None else ticks
        self._x_low = min(x_low, *(x for x, _ in self.x_ticks), x_low)
        self._x_high = max(x_high, *(x for x, _ in self.x_ticks), x_high)
        self.y_low, self.y_high = (
            (0.0, 1.0)
            if axes.y_share
            else _padded(
                min(p.y if p.low is None else min(p.low, p.y) for p in drawn),
                max(p.y if p.high is None else max(p.high, p.y) for p in drawn),
            )
        )

    def x(self, x: float) -> float:
        inner = WIDTH - LEFT - RIGHT
        low, high = self._x_low, self._x_high
        if low == high:
            return LEFT + inner / 2
        if self._log:
            return LEFT + 10 + (inner - 20) * math.log(x / low) / math.log(high / low)
        return LEFT + 10 + (inner - 20) * (x - low) / (high - low)

    def y(self, y: float) -> float:
        share = (min(max(y, self.y_low), self.y_high) - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def line_chart(series: Sequence[Series], axes: Axes, *, title: str, markers: bool = True) -> str:
    """Returns an SVG of lines with their interval bands.

    Args:
        series: Lines; their points ascend in x.
        axes: Labels, ticks and scales.
        title: Accessible name.
        markers: Whether points are drawn (curves with hundreds of steps go without).
    """
    drawn = [point for one in series for point in one.points]
    if not drawn:
        return _svg(title, "No data.", "")
    at = _Frame(drawn, axes)
    parts = []
    for y, text in _ticks(at.y_low, at.y_high, 5, percent=axes.y_share):
        parts.append(_line(LEFT, at.y(y), WIDTH - RIGHT, at.y(y), "grid"))
        parts.append(_text(LEFT - 6, at.y(y) + 4, text, "tick end"))
    for x, text in at.x_ticks:
        parts.append(_line(at.x(x), HEIGHT - BOTTOM, at.x(x), HEIGHT - BOTTOM + 4, "axis"))
        parts.append(_text(at.x(x), HEIGHT - BOTTOM + 17, text, "tick mid"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 4, axes.x_label, "label mid"))
    # Bands lie below all lines, and weak lines below those that stand out.
    parts += [_band(one, at) for one in series if one.strong]
    for one in sorted(series, key=lambda one: one.strong):
        parts.append(_drawn(one, at, markers=markers))
    ends = "; ".join(f"{one.name}: {_ends(one, axes.y_share)}" for one in series if one.points)
    return _svg(title, f"{axes.y_label} by {axes.x_label}. {ends}.", "".join(parts))


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[Segment], str]], *, title: str, unit: str = "tokens"
) -> str:
    """Returns an SVG of horizontal bars, one per row of (name, segments, text at its end)."""
    longest = max((sum(part.value for part in parts) for _, parts, _ in rows), default=0.0)
    height = 42 * len(rows) + 6
    out = []
    for i, (name, parts, text) in enumerate(rows):
        top = 42 * i + 4
        out.append(_text(0, top + 11, name, "row"))
        out.append(_text(WIDTH, top + 11, text, "tick end"))
        x = 0.0
        for j, part in enumerate(parts):
            width = WIDTH * part.value / longest if longest else 0.0
            if width <= 0:
                continue
            note = f"{name}: {part.value:,.0f} {part.name} {unit}"
            out.append(
                f'<rect class="cost{j + 1}" x="{x:.2f}" y="{top + 17}" height="14" rx="1.5" '
                f'width="{max(width, 0.75):.2f}"><title>{escape(note)}</title></rect>'
            )
            x += width
    summary = "; ".join(
        f"{name}: " + ", ".join(f"{part.value:,.0f} {part.name}" for part in parts if part.value)
        for name, parts, _ in rows
    )
    return _svg(title, summary + ".", "".join(out), height=height)


def bar_key(index: int) -> str:
    """Returns the small SVG that stands for a bar's segment in a legend, counted from 0."""
    return (
        '<svg class="key" viewBox="0 0 30 12" aria-hidden="true">'
        f'<rect class="cost{index + 1}" x="8" width="14" height="12" rx="2"/></svg>'
    )


def key(style: Style) -> str:
    """Returns the small SVG that stands for a series in a legend."""
    dash = " dashed" if style.dashed else ""
    return (
        '<svg class="key" viewBox="0 0 30 12" aria-hidden="true">'
        f'<path class="line s{style.colour}{dash}" d="M1 6H29"/>'
        f"{_marker(15, 6, style)}</svg>"
    )


def short_number(value: float) -> str:
    """Returns a number in at most five characters.

    >>> [short_number(v) for v in (0, 950, 4096, 1_250_000, 3_000_000_000)]
    ['0', '950', '4.1K', '1.2M', '3B']
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size * 0.9995:
            scaled = f"{value / size:.1f}" if abs(value) < 99.95 * size else f"{value / size:.0f}"
            return scaled.removesuffix(".0") + letter
    return f"{value:.3g}" if value != int(value) else f"{int(value)}"


def length_name(length: float) -> str:
    """Returns a nominal length as people say it, in binary thousands where it is one.

    >>> [length_name(n) for n in (512, 4096, 131072, 3000)]
    ['512', '4K', '128K', '3,000']
    """
    whole = int(length)
    return f"{whole // 1024}K" if whole >= 1024 and whole % 1024 == 0 else f"{whole:,}"


def thin_out(points: Sequence[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """Returns at most `most` points: means over equal runs of steps, the last step kept."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    thinned = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        thinned.append((chunk[-1][0], sum(y for _, y in chunk) / len(chunk)))
    return thinned


def _svg(title: str, summary: str, body: str, height: int = HEIGHT) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}. {escape(summary)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<path class="{css}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _band(one: Series, at: _Frame) -> str:
    ends = [
        (at.x(p.x), p.low, p.high) for p in one.points if p.low is not None and p.high is not None
    ]
    if len(ends) == 1:
        x, low, high = ends[0]
        return (
            f'<path class="whisker s{one.style.colour}" '
            f'd="M{x:.1f} {at.y(low):.1f}V{at.y(high):.1f}"/>'
        )
    if not ends:
        return ""
    upper = [f"{x:.1f} {at.y(high):.1f}" for x, _, high in ends]
    lower = [f"{x:.1f} {at.y(low):.1f}" for x, low, _ in reversed(ends)]
    return f'<path class="band s{one.style.colour}" d="M{"L".join(upper + lower)}Z"/>'


def _drawn(one: Series, at: _Frame, *, markers: bool) -> str:
    parts = []
    if len(one.points) > 1:
        path = "L".join(f"{at.x(p.x):.1f} {at.y(p.y):.1f}" for p in one.points)
        dash = " dashed" if one.style.dashed else ""
        parts.append(f'<path class="line s{one.style.colour}{dash}" d="M{path}"/>')
    if markers:
        for point in one.points:
            note = f"<title>{escape(point.note)}</title>" if point.note else ""
            shape = _marker(at.x(point.x), at.y(point.y), one.style)
            target = (
                f'<circle class="hit" cx="{at.x(point.x):.1f}" cy="{at.y(point.y):.1f}" r="11"/>'
            )
            parts.append(f'<g class="dot">{note}{target}{shape}</g>')
    weight = "" if one.strong else ' class="weak"'
    return f"<g{weight}>{''.join(parts)}</g>"


def _marker(x: float, y: float, style: Style) -> str:
    css = f'class="mark s{style.colour}{" hollow" if style.dashed else ""}"'
    if style.marker == 1:
        return f'<rect {css} x="{x - 3.4:.1f}" y="{y - 3.4:.1f}" width="6.8" height="6.8"/>'
    if style.marker == 2:
        return f'<path {css} d="M{x:.1f} {y - 4.4:.1f}l4.2 7.4h-8.4z"/>'
    if style.marker == 3:
        return f'<path {css} d="M{x:.1f} {y - 4.8:.1f}l4.8 4.8l-4.8 4.8l-4.8 -4.8z"/>'
    return f'<circle {css} cx="{x:.1f}" cy="{y:.1f}" r="3.8"/>'


def _ends(one: Series, as_percent: bool) -> str:
    first, last = one.points[0], one.points[-1]
    if as_percent:
        return f"from {100 * first.y:.0f}% to {100 * last.y:.0f}%"
    return f"from {first.y:.3g} to {last.y:.3g}"


def _padded(low: float, high: float) -> tuple[float, float]:
    if low == high:
        return low - 0.5, high + 0.5
    gap = (high - low) * 0.06
    return (0.0 if 0 <= low < (high - low) * 0.6 else low - gap), high + gap


def _ticks(
    low: float, high: float, most: int, *, percent: bool = False, whole: bool = False
) -> list[tuple[float, str]]:
    """Returns round values between the ends, at most about `most` of them, with their texts."""
    if high <= low:
        return [(low, f"{100 * low:.0f}%" if percent else short_number(low))]
    raw = (high - low) / max(1, most - 1)
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    places = max(0, -math.floor(math.log10(step) + 1e-9)) + (
        1 if step / size == 2.5 and not whole else 0
    )
    ticks = []
    i = math.ceil(low / step - 1e-9)
    while i * step <= high + step * 1e-9:
        value = i * step
        if percent:
            text = f"{100 * value:.0f}%"
        else:
            text = short_number(value) if abs(value) >= 1000 else f"{value:.{places}f}"
        ticks.append((value, text.replace("-", "−")))
        i += 1
    return ticks


def _log_ticks(low: float, high: float, most: int = 7) -> list[tuple[float, str]]:
    """Returns round values around the data: 1, 2, 5 times powers of ten, fewer where too many.

    >>> [text for _, text in _log_ticks(8_000, 132_000)]
    ['5K', '10K', '20K', '50K', '100K', '200K']
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        every = [k * 10.0**e for e in range(first, last + 1) for k in steps]
        start = max((v for v in every if v <= low), default=every[0])
        end = min((v for v in every if v >= high), default=every[-1])
        ticks = [v for v in every if start <= v <= end]
        if len(ticks) <= most:
            break
    return [(v, short_number(v)) for v in ticks]
