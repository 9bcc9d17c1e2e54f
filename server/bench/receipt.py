"""Values measured in rounds, by contender: their figures, the receipt, the page and the charts.

Knows how the plain benchmark shows figures (report.py). Measures nothing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from server.bench import chart, report
from server.bench.report import Figure, Spread


@dataclass(frozen=True, slots=True)
class Value:
    """One measured number: `name` such as "decode after 4,096 tokens", in round `round`. at: where
    it lies on a chart's x axis."""

    name: str
    unit: str
    value: float
    round: int
    at: float = 0.0


@dataclass(slots=True)
class Values:
    """What was measured of each contender, in order; `notes` say what was left out and why."""

    of: dict[str, list[Value]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, contender: str, value: Value) -> None:
        self.of.setdefault(contender, []).append(value)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def figures(self) -> list[Figure]:
        """One for each name, each value one round's, in the order of measuring."""
        names = dict.fromkeys((v.name, v.unit) for values in self.of.values() for v in values)
        found = []
        for name, unit in names:
            spreads = {
                contender: Spread.of(some)
                for contender, values in self.of.items()
                if (some := [v.value for v in values if v.name == name])
            }
            found.append(Figure(name, unit, unit == "tok/s", spreads))
        return found

    def panel(self, title: str, x_label: str, unit: str, *, log: bool = False) -> chart.Panel:
        """The medians of the figures in `unit`, over `at`."""
        marks: set[float] = set()
        series: dict[str, list[chart.Point]] = {}
        for contender, values in self.of.items():
            places = sorted({v.at for v in values if v.unit == unit})
            series[contender] = [
                (x, Spread.of([v.value for v in values if v.unit == unit and v.at == x]).median)
                for x in places
            ]
            marks.update(places)
        shown = {name: points for name, points in series.items() if points}
        return chart.Panel(title, x_label, unit, shown, sorted(marks), even=True, log=log)

    def as_json(self) -> dict[str, Any]:
        """Figures, every value, and the notes."""
        contenders = list(self.of)
        return {
            "figures": [report.figure_json(figure, contenders) for figure in self.figures()],
            "samples": {name: [asdict(v) for v in values] for name, values in self.of.items()},
            "notes": self.notes,
        }

    def page(self) -> str:
        """The table and what has to be said about it."""
        lines = [report.figures_table(self.figures(), list(self.of)), "", report.NOISE]
        return "\n".join([*lines, *self.notes])


def head(
    command: str, conditions: Mapping[str, Any], load_before: Sequence[float]
) -> dict[str, Any]:
    """Machine, versions, conditions and the command line: the beginning of every receipt."""
    return {
        "command": command,
        "machine": report.machine(),
        "versions": report.versions(),
        "conditions": {
            **conditions,
            "load_average_before": list(load_before),
            "load_average_after": report.load_average(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }


def command_line(mode: str, argv: Sequence[str]) -> str:
    """The command as somebody else would type it: folders by their last name only."""
    words = [Path(word).name if "/" in word else word for word in argv]
    return shlex.join(["mxserve", "bench", mode, *words])


def add_output_flags(arguments: argparse.ArgumentParser, *, plot: bool = True) -> None:
    """--json, --output and --plot."""
    arguments.add_argument("--json", action="store_true", help="print the receipt, not tables")
    arguments.add_argument("--output", type=Path, help="also write the receipt to this file")
    if plot:
        arguments.add_argument("--plot", type=Path, metavar="DIR", help="write charts (SVG) there")


def show(
    options: argparse.Namespace,
    receipt: Mapping[str, Any],
    page: str,
    charts: Mapping[str, Sequence[chart.Panel]] | None = None,
) -> None:
    """Prints the page or the receipt, and writes what was asked for; `charts` by file name."""
    text = report.as_text(receipt)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    if charts and options.plot is not None:
        options.plot.mkdir(parents=True, exist_ok=True)
        for name, panels in charts.items():
            full = [panel for panel in panels if panel.series]
            if full:
                (options.plot / name).write_text(chart.svg(full), encoding="utf-8")
    print(text if options.json else f"{report.headline(receipt)}\n\n{page}")


def failed(mode: str, error: Exception) -> int:
    """Says why, and the exit status."""
    print(f"mxserve bench {mode}: {error}", file=sys.stderr)
    return 1


def stopped(mode: str) -> int:
    """The same for Ctrl-C."""
    print(f"mxserve bench {mode}: stopped", file=sys.stderr)
    return 130
