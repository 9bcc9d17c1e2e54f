"""The figures of `mxserve bench serve`: tables, a receipt and charts.

Knows what was measured and how the plain benchmark shows figures. Measures nothing.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from server.bench import report
from server.bench.chart import Panel, Point
from server.bench.load import Beside, Level, quantile
from server.bench.report import Figure, Spread

MIB = 1 << 20


@dataclass(slots=True)
class Rounds:
    """All rounds of one server: levels by the number of streams, and the long prompts."""

    levels: dict[int, list[Level]] = field(default_factory=dict)
    beside: list[Beside] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Why requests failed, in all rounds."""
        levels = [level for rounds in self.levels.values() for level in rounds]
        return [error for one in (*levels, *self.beside) for error in one.errors]


Runs = Mapping[str, Rounds]
Pick = Callable[[Level], float | None]


def _at(values: Sequence[float], share: float) -> float | None:
    return quantile(values, share) * 1e3 if values else None


PICKS: tuple[tuple[str, str, Pick], ...] = (
    ("sum", "tok/s", lambda level: level.rate or None),
    ("gap p50", "ms", lambda level: _at(level.gaps, 0.5)),
    ("gap p99", "ms", lambda level: _at(level.gaps, 0.99)),
    ("TTFT p50", "ms", lambda level: _at(level.first, 0.5)),
    ("TTFT p99", "ms", lambda level: _at(level.first, 0.99)),
)


def figures(runs: Runs) -> list[Figure]:
    """Every figure, each value one round's, the numbers of streams in order."""
    found: list[Figure] = []
    numbers = sorted({number for rounds in runs.values() for number in rounds.levels})
    for name, unit, pick in PICKS:
        for number in numbers:
            values = {
                server: [pick(level) for level in rounds.levels.get(number, ())]
                for server, rounds in runs.items()
            }
            title = f"{number} stream{'s' if number > 1 else ''}: {name}"
            found.append(_figure(title, unit, values))
    others: tuple[tuple[str, Callable[[Beside], float | None]], ...] = (
        ("calm gap p99", lambda one: _at(one.calm, 0.99)),
        ("gap p99 beside a long prompt", lambda one: _at(one.gaps, 0.99)),
        ("longest gap beside it", lambda one: max(one.gaps) * 1e3 if one.gaps else None),
        ("TTFT of the long prompt", lambda one: one.first * 1e3 if one.first else None),
    )
    for name, look in others:
        values = {server: [look(one) for one in rounds.beside] for server, rounds in runs.items()}
        found.append(_figure(name, "ms", values))
    return [figure for figure in found if figure.spreads]


def _figure(name: str, unit: str, values: Mapping[str, Sequence[float | None]]) -> Figure:
    known = {server: [v for v in some if v is not None] for server, some in values.items()}
    spreads = {server: Spread.of(some) for server, some in known.items() if some}
    return Figure(name, unit, unit == "tok/s", spreads)


@dataclass(frozen=True, slots=True)
class Fall:
    """The sum fell when streams were added: `part` of the median at `few` streams was left at
    `many`. clear: the ranges of the rounds do not touch, so that it is no noise."""

    few: int
    many: int
    part: float
    clear: bool


def falls(rounds: Rounds) -> list[Fall]:
    """Neighbouring numbers of streams between which the median sum fell."""
    sums = [
        (number, Spread.of([level.rate for level in some]))
        for number, some in sorted(rounds.levels.items())
    ]
    return [
        Fall(a, b, more.median / few.median, more.count > 1 and not more.overlaps(few))
        for (a, few), (b, more) in itertools.pairwise(sums)
        if few.median > more.median
    ]


def page(runs: Runs) -> str:
    """The tables and what has to be said about them."""
    lines = [report.figures_table(figures(runs), list(runs)), "", report.NOISE]
    for server, rounds in runs.items():
        for fall in falls(rounds):
            lines.append(
                f"{server}: the sum falls to {fall.part:.2f} from {fall.few} to {fall.many} "
                f"streams{'' if fall.clear else ' (may be noise: the ranges touch)'}."
            )
        if len(rounds.levels) > 1 and not falls(rounds):
            lines.append(f"{server}: the sum never falls when streams are added.")
        for error, count in Counter(rounds.errors).items():
            lines.append(f"{server}: {count} times: {error}")
    return "\n".join(lines)


def runs_json(runs: Runs) -> dict[str, Any]:
    """Figures and every round's quantiles."""
    servers = list(runs)
    return {
        "figures": [report.figure_json(figure, servers) for figure in figures(runs)],
        "rounds": {
            server: {
                "levels": [level.as_json() for some in rounds.levels.values() for level in some],
                "beside_a_long_prompt": [one.as_json() for one in rounds.beside],
                "sum_falls": [asdict(fall) for fall in falls(rounds)],
            }
            for server, rounds in runs.items()
        },
    }


def panels(runs: Runs) -> list[Panel]:
    """Sum, gaps and time to first token over the number of streams."""
    found = []
    for title, label, pick, log in (
        ("All streams together", "tok/s", PICKS[0][2], False),
        ("Gap between tokens, 99th percentile", "ms", PICKS[2][2], True),
        ("Time to first token, median", "ms", PICKS[3][2], True),
    ):
        series = {server: _medians(rounds, pick) for server, rounds in runs.items()}
        series = {server: points for server, points in series.items() if points}
        marks = sorted({x for points in series.values() for x, _ in points})
        if series:
            found.append(Panel(title, "streams", label, series, marks, even=True, log=log))
    return found


def _medians(rounds: Rounds, pick: Pick) -> list[Point]:
    points: list[Point] = []
    for number, some in sorted(rounds.levels.items()):
        values = [value for level in some if (value := pick(level))]
        if values:
            points.append((float(number), statistics.median(values)))
    return points
