from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from agenticlu.report import plots
from agenticlu.report.plots import Axes, Point, Segment, Series, Style


def draw(*series: Series, **more: object) -> str:
    return plots.line_chart(series, Axes("x", "y", **more), title="A & B")


@pytest.mark.parametrize(
    "values",
    [(), (0.5,), (0.0, 0.0), (-3.0, 4.0), (1e-9, 2e-9), (1e12, 3e12), tuple(range(300))],
)
def test_charts_are_well_formed_and_finite(values: tuple[float, ...]) -> None:
    points = tuple(Point(float(i), y, y - 0.1, y + 0.1) for i, y in enumerate(values))
    svg = draw(Series("one < two", Style(1), points))
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert "A & B" in (root.get("aria-label") or "")
    assert "nan" not in svg
    assert "inf" not in svg.replace("info", "")


def test_points_land_where_the_axis_says() -> None:
    svg = draw(
        Series("s", Style(1), (Point(0, 0.0), Point(1, 1.0))),
        y_share=True,
        x_ticks=[(0.0, "a"), (1.0, "b")],
    )
    marks = [e for e in ElementTree.fromstring(svg).iter("circle") if "mark" in e.get("class", "")]
    (low, high) = marks
    assert float(low.get("cy", "")) == plots.HEIGHT - plots.BOTTOM
    assert float(high.get("cy", "")) == plots.TOP
    texts = {e.text: e for e in ElementTree.fromstring(svg).iter("text")}
    assert float(texts["a"].get("x", "")) == pytest.approx(float(low.get("cx", "")), abs=0.1)
    assert float(texts["b"].get("x", "")) == pytest.approx(float(high.get("cx", "")), abs=0.1)


def test_series_differ_without_colour() -> None:
    looks = {
        plots.key(Style(colour=1, dashed=dashed, marker=marker))
        for dashed in (False, True)
        for marker in range(4)
    }
    assert len(looks) == 8


def test_bars_share_one_scale() -> None:
    svg = plots.stacked_bars(
        [("a", [Segment("computed", 10), Segment("cached", 30)], "40"),
         ("b", [Segment("computed", 20), Segment("cached", 0)], "20")],
        title="Cost",
    )  # fmt: skip
    widths = [float(e.get("width", "")) for e in ElementTree.fromstring(svg).iter("rect")]
    assert widths == pytest.approx([90, 270, 180])


def test_thinning_keeps_the_mean_and_the_last_step() -> None:
    points = [(float(i), math.sin(i)) for i in range(1000)]
    thin = plots.thin_out(points, most=100)
    assert len(thin) == 100
    assert thin[-1][0] == 999
    assert sum(y for _, y in thin) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert plots.thin_out(points[:50]) == points[:50]
