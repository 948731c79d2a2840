"""Small plots as SVG text, to stand in a page that needs no script and loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
