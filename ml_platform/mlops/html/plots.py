"""Small plots as SVG text, to stand in a page that needs no script and loads nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

_WIDTH, _HEIGHT, _MARGIN = 150.0, 26.0, 3.0


def sparkline(values: Sequence[float | None], failed: Sequence[bool], label: str) -> str:
    """A line over equally spaced points, gaps where a value is missing, failed points marked.

    Args:
        values: the oldest first; the last one is the point the reader looks for.
        failed: as many, whether the point's expectation failed.
    """
    present = [value for value in values if value is not None and math.isfinite(value)]
    if not present:
        return ""
    low, high = min(present), max(present)
    span = (high - low) or 1.0
    step = (_WIDTH - 2 * _MARGIN) / max(len(values) - 1, 1)
    points: list[tuple[float, float] | None] = []
    for position, value in enumerate(values):
        if value is None or not math.isfinite(value):
            points.append(None)
            continue
        # A value that never changes is a line through the middle.
        share = (value - low) / span if high > low else 0.5
        points.append((_MARGIN + position * step, _HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN)))
    parts = [f'<polyline class="line" points="{line}"/>' for line in _lines(points)]
    last = max(position for position, point in enumerate(points) if point)
    for position, point in enumerate(points):
        if point and (failed[position] or position == last):
            kind = "bad" if failed[position] else "good"
            radius = 2.6 if position == last else 1.8
            parts.append(f'<circle class="{kind}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius}"/>')
    return (
        f'<svg class="spark" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{_escaped(label)}"><title>{_escaped(label)}</title>{"".join(parts)}</svg>'
    )


def strip(kinds: Sequence[str], labels: Sequence[str]) -> str:
    """A row of squares, one a day, coloured by the class ``kind-…``; each with its label on hover."""
    size, gap = 14, 3
    pitch = size + gap
    squares = "".join(
        f'<rect class="kind-{kind}" x="{position * pitch}" y="0" width="{size}" height="{size}" rx="2">'
        f"<title>{_escaped(label)}</title></rect>"
        for position, (kind, label) in enumerate(zip(kinds, labels, strict=True))
    )
    width = len(kinds) * pitch
    return f'<svg class="strip" viewBox="0 0 {width} {size}" width="{width}" height="{size}">{squares}</svg>'


#: Points of a line; of a longer history each is the least of its neighbours.
_POINTS = 480


@dataclass(frozen=True)
class Point:
    """A value on a day, with its interval; a value that is missing interrupts the line."""

    day: date
    value: float | None
    lower: float | None = None
    upper: float | None = None
    failed: bool = False


def timeline(points: Sequence[Point], threshold: float, marks: Sequence[date], label: str) -> str:
    """A metric over days with its interval, the threshold, and marks on days; empty without any value.

    Args:
        marks: days to be marked at the bottom, as those from which another model served.
    """
    shown = [point for point in _thinned(points) if point.value is None or math.isfinite(point.value)]
    values = [point.value for point in shown if point.value is not None]
    if not values:
        return ""
    bounds = [bound for point in shown for bound in (point.lower, point.upper) if bound is not None]
    low, high = min(*values, *bounds, threshold), max(*values, *bounds, threshold)
    low, high = low - (high - low or 0.1) * 0.06, high + (high - low or 0.1) * 0.06
    width, height, left, bottom = 640.0, 170.0, 34.0, 18.0
    first, last = shown[0].day, shown[-1].day
    span = max((last - first).days, 1)

    def x(day: date) -> float:
        return left + (day - first).days / span * (width - left - 6)

    def y(value: float) -> float:
        return 4 + (high - value) / (high - low) * (height - bottom - 8)

    parts = [
        f'<line class="grid" x1="{left}" x2="{width}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text x="{left - 5}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>'
        for value in _ticks(low, high)
    ]
    for day, text in _dates(first, last):
        anchor = "start" if x(day) < width - 60 else "end"
        parts.append(f'<text x="{x(day):.1f}" y="{height - 3}" text-anchor="{anchor}">{text}</text>')
    for piece in _pieces(shown, lambda point: point.lower is not None and point.upper is not None):
        above = [f"{x(point.day):.1f},{y(point.upper or 0):.1f}" for point in piece]
        below = [f"{x(point.day):.1f},{y(point.lower or 0):.1f}" for point in reversed(piece)]
        parts.append(f'<polygon class="band" points="{" ".join(above + below)}"/>')
    parts.append(
        f'<line class="threshold" x1="{left}" x2="{width}" y1="{y(threshold):.1f}" y2="{y(threshold):.1f}"/>'
    )
    parts += [
        f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="4" y2="{height - bottom}">'
        f"<title>{mark}</title></line>"
        for mark in marks
        if first <= mark <= last
    ]
    for piece in _pieces(shown, lambda point: point.value is not None):
        line = " ".join(f"{x(point.day):.1f},{y(point.value or 0):.1f}" for point in piece)
        parts.append(f'<polyline class="line" points="{line}"/>')
    for point in shown:
        newest = point is shown[-1]
        if point.value is not None and (point.failed or newest):
            kind = "bad" if point.failed else "good"
            parts.append(
                f'<circle class="{kind}" cx="{x(point.day):.1f}" cy="{y(point.value):.1f}" '
                f'r="{3.2 if newest else 1.8}"><title>{point.day}: {point.value:.4f}</title></circle>'
            )
    name = _escaped(label)
    return (
        f'<svg class="timeline" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    size = math.ceil(len(points) / _POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    least = [
        min(
            (point for point in group if point.value is not None),
            key=lambda point: point.value or 0.0,
            default=group[-1],
        )
        for group in groups
    ]
    return least if least[-1] is points[-1] else [*least, points[-1]]


def _pieces(points: Sequence[Point], whole: Callable[[Point], bool]) -> Iterator[list[Point]]:
    for is_whole, group in groupby(points, key=whole):
        if is_whole:
            yield list(group)


def _ticks(low: float, high: float) -> list[float]:
    """A few round values between two."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _dates(first: date, last: date) -> list[tuple[date, str]]:
    """A few dates to name between two."""
    months = (last.year - first.year) * 12 + last.month - first.month
    if months < 2:
        return [(first, str(first)), (last, str(last))]
    apart = next(step for step in (1, 2, 3, 6, 12, 24, 60, 1200) if months / step <= 7)
    found = []
    for number in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
        day = date(number // 12, number % 12 + 1, 1)
        if number % apart == 0 and first <= day:
            found.append((day, f"{day:%Y}" if apart >= 12 else f"{day:%Y-%m}"))
    return found


def calendar(
    first: date,
    last: date,
    kinds: Mapping[date, str],
    words: Mapping[str, str],
    link: Callable[[date], str | None],
) -> str:
    """The days of at most half a year as squares: a column a week, Monday on top.

    Args:
        kinds: by day, the class ``kind-…`` that colours it; days without one are left out.
        words: by kind, what it is called.
        link: the address that a day leads to, if it has one.
    """
    size, pitch, top = 11, 13, 14
    start = first - timedelta(days=first.weekday())
    parts = []
    for n in range((last - first).days + 1):
        day = first + timedelta(days=n)
        column = (day - start).days // 7
        if day.day == 1:
            parts.append(f'<text x="{column * pitch}" y="9">{day:%b}</text>')
        kind = kinds.get(day)
        if kind is None:
            continue
        label = f"{day:%a} {day}: {_escaped(words.get(kind, kind))}"
        square = (
            f'<rect class="kind-{kind}" x="{column * pitch}" y="{top + day.weekday() * pitch}" '
            f'width="{size}" height="{size}" rx="2"><title>{label}</title></rect>'
        )
        address = link(day)
        parts.append(f'<a href="{_escaped(address)}">{square}</a>' if address else square)
    width = ((last - start).days // 7 + 1) * pitch
    return (
        f'<svg class="calendar" viewBox="0 0 {width} {top + 7 * pitch}" width="{width}" '
        f'height="{top + 7 * pitch}" role="img" aria-label="{first} to {last}">{"".join(parts)}</svg>'
    )


def _lines(points: Sequence[tuple[float, float] | None]) -> list[str]:
    """The points of each unbroken piece of a line."""
    pieces: list[list[str]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{point[0]:.1f},{point[1]:.1f}")
    return [" ".join(piece) for piece in pieces if len(piece) > 1]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
