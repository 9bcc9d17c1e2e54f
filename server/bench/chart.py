"""Line charts as SVG text, one panel below the other.

Knows numbers and where they go on a page; nothing of benchmarks, and needs no library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]
WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 34, 46
COLOURS = ("#1f6feb", "#d1495b", "#2e8b57", "#8a63d2", "#8c6d1f", "#5b6470")


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. `series`: the points of each line by its name, x ascending. `marks`: x values to
    label (default: round numbers), placed evenly where `even`. y begins at 0; `log` makes it
    logarithmic (then every y is above 0)."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[Point]]
    marks: Sequence[float] = ()
    even: bool = False
    log: bool = False


def svg(panels: Sequence[Panel]) -> str:
    """A whole SVG document."""
    height = HEIGHT * len(panels)
    body = "\n".join(_panel(panel, HEIGHT * number) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`, four to seven of them."""
    if not most > 0:
        return [0.0, 1.0]
    power = 10 ** math.floor(math.log10(most / 4))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if most / (power * f) <= 6)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


class _Scale:
    """Where values lie on the page."""

    def __init__(self, panel: Panel) -> None:
        xs = [x for points in panel.series.values() for x, _ in points] or [0.0]
        ys = [y for points in panel.series.values() for _, y in points] or [1.0]
        self._even = {x: n for n, x in enumerate(panel.marks)} if panel.even else {}
        self.x_marks = list(panel.marks) or ticks(max(xs))
        self._right = max(len(self._even) - 1, 1) if self._even else max(*xs, *self.x_marks)
        self._log = panel.log
        if panel.log:
            low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
            self.y_marks = [10.0**n for n in range(low, max(high, low + 1) + 1)]
        else:
            self.y_marks = ticks(max(ys))

    def x(self, value: float) -> float:
        """Pixels from the left."""
        place = self._even[value] if self._even else value
        return LEFT + (WIDTH - LEFT - RIGHT) * place / (self._right or 1)

    def y(self, value: float) -> float:
        """Pixels from the panel's top."""
        low, high = self.y_marks[0], self.y_marks[-1]
        if self._log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _panel(panel: Panel, offset: int) -> str:
    scale = _Scale(panel)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [_text(LEFT, 20, panel.title, "start", bold=True)]
    for value in scale.y_marks:
        y = scale.y(value)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6ea"/>')
        parts.append(_text(LEFT - 8, y + 4, _short(value), "end"))
    parts += [_text(scale.x(x), bottom + 17, _short(x), "middle") for x in scale.x_marks]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 12, panel.x_label, "middle"))
    middle = (TOP + bottom) / 2
    label = _text(0, 0, panel.y_label, "middle")
    parts.append(f'<g transform="translate(16 {middle:.1f}) rotate(-90)">{label}</g>')
    for number, (name, points) in enumerate(panel.series.items()):
        parts += _line(scale, name, points, number, dots=bool(panel.marks))
    return f'<g transform="translate(0 {offset})">\n' + "\n".join(parts) + "\n</g>"


def _line(
    scale: _Scale, name: str, points: Sequence[Point], number: int, *, dots: bool
) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    places = [(scale.x(x), scale.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    if dots:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    x, y = WIDTH - RIGHT + 14, TOP + 10 + 20 * number
    parts.append(
        f'<line x1="{x}" x2="{x + 18}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
    )
    parts.append(_text(x + 24, y + 4, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="#24292f"{weight}>{escape(text)}</text>'


def _short(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:g}" if value < 1000 else f"{value:,.0f}"
