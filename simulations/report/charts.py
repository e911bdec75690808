"""Charts as SVG: no library at the reader's end, sharp at any size, read out by title and text."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from simulations.report.looks import Look
from simulations.report.scales import Scale

BANDS = 5
"""With more lines in a chart bands would hide each other, and are left out."""
MARKERS = 12
"""On a line, at most: a point for every evaluation would hide it."""


@dataclass(frozen=True)
class Line:
    """A contender's in a chart."""

    look: Look
    name: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float] = ()
    """Of its band; NaN where there is none."""
    steps: bool = False
    """Level until the next point, as a distribution is; without markers."""


@dataclass(frozen=True)
class Frame:
    """The inside of a chart, in pixels."""

    x: Scale
    y: Scale
    width: float = 460
    height: float = 300
    left: float = 52
    bottom: float = 42

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the data lies."""
        right, top = self.width - 22, 10
        across = self.left + self.x.place(x) * (right - self.left)
        return across, top + (1 - self.y.place(y)) * (self.height - self.bottom - top)


def reach(lines: Sequence[Line]) -> list[float]:
    """What the side of a chart has to hold: the lines, and their bands where they are drawn.

    A band that goes down to nothing is not followed: on a side of equal ratios it would be all there is.
    """
    means = [y for line in lines for y in line.y]
    if len(lines) > BANDS:
        return means
    pairs = [pair for line in lines for pair in zip(line.y, line.half, strict=False)]
    ends = [end for y, half in pairs if isfinite(half) for end in (y - half, y + half)]
    return means + [end for end in ends if end > 0.1 * min(means)]


def line_chart(title: str, description: str, frame: Frame, lines: Sequence[Line]) -> Markup:
    """Lines with their bands; every marker says its numbers."""
    svg = new_svg(title, description, frame)
    for line in lines:
        group = add(svg, "g", class_=line.look.classes, data_series=line.look.position)
        if len(lines) <= BANDS:
            _band(group, frame, line)
        points = [frame.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        corners = _staircase(points) if line.steps else points
        add(group, "path", class_="line", d="M" + "L".join(map(_pair, corners)))
        if not line.steps:
            _markers(group, frame, line)
    return as_markup(svg)


def dot_chart(
    title: str, description: str, frame: Frame, dots: Sequence[tuple[float, float]], look: Look
) -> Markup:
    """Points on a square; those above the diagonal lie nearer to the other corner than before."""
    svg = new_svg(title, description, frame)
    low, high = frame.x.low, frame.x.high
    add(
        svg,
        "path",
        class_="diagonal",
        d=f"M{_pair(frame.at(low, low))}L{_pair(frame.at(high, high))}",
    )
    group = add(svg, "g", class_=look.classes)
    places: dict[tuple[int, int], int] = {}
    for x, y in dots:
        across, down = frame.at(x, y)
        place = round(across / 2), round(down / 2)
        places[place] = places.get(place, 0) + 1
    for (across, down), many in places.items():
        size = 1.6 * many**0.5
        add(group, "circle", class_="dot", cx=2 * across, cy=2 * down, r=f"{min(size, 8):.1f}")
    return as_markup(svg)


def interval_chart(scale: Scale, mean: float, half: float, look: Look) -> Markup:
    """A point with its interval, for a row of a table that says the numbers."""
    svg = Element("svg", {"viewBox": "0 0 210 20", "class": "interval", "aria-hidden": "true"})
    group = add(svg, "g", class_=look.classes)
    if isfinite(half):
        ends = [6 + 198 * scale.place(end) for end in (mean - half, mean + half)]
        add(group, "path", class_="bar", d=f"M{ends[0]:.1f} 10H{ends[1]:.1f}")
    add(group, "path", class_="marker", d=f"M{6 + 198 * scale.place(mean):.1f} 10{look.shape}")
    return as_markup(svg)


def swatch(look: Look) -> Markup:
    """A piece of a contender's line."""
    svg = Element("svg", {"viewBox": "0 0 34 12", "class": "swatch", "aria-hidden": "true"})
    group = add(svg, "g", class_=look.classes)
    add(group, "path", class_="line", d="M1 6H33")
    add(group, "path", class_="marker", d=f"M17 6{look.shape}")
    return as_markup(svg)


def new_svg(title: str, description: str, frame: Frame) -> Element:
    """An empty chart with its axes."""
    svg = Element("svg", {"viewBox": f"0 0 {frame.width:g} {frame.height:g}", "role": "img"})
    add(svg, "title", title)
    add(svg, "desc", description)
    _axes(svg, frame)
    return svg


def add(parent: Element, tag: str, text: str = "", **attributes: Any) -> Element:
    """A child; ``class_`` is class, and an underscore within a name a dash."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    child = SubElement(parent, tag, named)
    child.text = text or None
    return child


def as_markup(svg: Element) -> Markup:
    """Safe to put into a page: the tree has escaped what it holds."""
    return Markup(tostring(svg, encoding="unicode"))


def _axes(svg: Element, frame: Frame) -> None:
    left, bottom = frame.at(frame.x.low, frame.y.low)
    right, top = frame.at(frame.x.high, frame.y.high)
    axes = add(svg, "g", class_="axes")
    for tick, y in _apart([(t, frame.at(frame.x.low, t)[1]) for t in frame.y.ticks], 18):
        add(axes, "path", class_="grid", d=f"M{left:.1f} {y:.1f}H{right:.1f}")
        add(axes, "text", frame.y.text(tick), x=f"{left - 5:.1f}", y=f"{y + 4:.1f}", class_="end")
    for tick, x in _apart([(t, frame.at(t, frame.y.low)[0]) for t in frame.x.ticks], 46):
        add(axes, "path", class_="grid", d=f"M{x:.1f} {top:.1f}V{bottom + 4:.1f}")
        add(axes, "text", frame.x.text(tick), x=f"{x:.1f}", y=f"{bottom + 18:.1f}", class_="middle")
    middle = f"{(left + right) / 2:.1f}"
    add(axes, "text", frame.x.label, x=middle, y=f"{frame.height - 6:g}", class_="middle label")


def _apart(ticks: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Ticks and their places without those too near to the one before for their texts."""
    kept: list[tuple[float, float]] = []
    for tick, place in ticks:
        if not kept or abs(place - kept[-1][1]) >= gap:
            kept.append((tick, place))
    return kept


def _band(group: Element, frame: Frame, line: Line) -> None:
    points = [p for p in zip(line.x, line.y, line.half, strict=False) if isfinite(p[2])]
    if points:
        upper = [frame.at(x, y + half) for x, y, half in points]
        lower = [frame.at(x, y - half) for x, y, half in reversed(points)]
        add(group, "path", class_="band", d="M" + "L".join(map(_pair, upper + lower)) + "Z")


def _markers(group: Element, frame: Frame, line: Line) -> None:
    every = ceil(len(line.x) / MARKERS)
    for i in range((len(line.x) - 1) % every, len(line.x), every):  # the last is always there
        marker = add(group, "path", class_="marker")
        marker.set("d", f"M{_pair(frame.at(line.x[i], line.y[i]))}{line.look.shape}")
        around = (
            f" ± {frame.y.text(_short(line.half[i]))}"
            if i < len(line.half) and isfinite(line.half[i])
            else ""
        )
        score = frame.y.text(_short(line.y[i]))
        add(
            marker,
            "title",
            f"{line.name}: {score}{around} at {frame.x.text(_short(line.x[i]))} {frame.x.label}",
        )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = [points[0]]
    for x, y in points[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found


def _pair(point: tuple[float, float]) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
