"""Numbers from measurements: medians, spread, ratios, a table and a JSON receipt.

Knows what a Measurement holds and what machine this is. Takes no measurement itself.

A ratio is only called one when the two sides' ranges do not touch; otherwise it is marked "~".
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from server.bench.workloads import Measurement

NOISE = "median [least..most]. A ratio marked ~ may be noise: the ranges touch, or one round ran."
Runs = Mapping[str, Sequence[Measurement]]  # server name -> its measurements


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of `count` values."""

    median: float
    least: float
    most: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Raises ValueError when there are no values."""
        if not values:
            raise ValueError("no values")
        return Spread(statistics.median(values), min(values), max(values), len(values))

    def overlaps(self, other: Spread) -> bool:
        """Whether the two ranges touch; then a difference of medians may be noise."""
        return self.least <= other.most and other.least <= self.most


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report. `higher_is_better` is False for times."""

    name: str
    unit: str
    higher_is_better: bool
    spreads: Mapping[str, Spread]

    def ratio(self, ours: str, theirs: str) -> tuple[float, bool] | None:
        """How many times better we are, and whether that is beyond noise (more than one value on
        each side and ranges that do not touch). None when a side is missing."""
        if ours not in self.spreads or theirs not in self.spreads:
            return None
        mine, other = self.spreads[ours], self.spreads[theirs]
        better, worse = (mine, other) if self.higher_is_better else (other, mine)
        if worse.median == 0:
            return None
        clear = min(mine.count, other.count) > 1 and not mine.overlaps(other)
        return better.median / worse.median, clear


def figures(runs: Runs) -> list[Figure]:
    """Every figure the measurements allow, in the order of the workloads."""
    names = list(dict.fromkeys(m.name for measured in runs.values() for m in measured))
    found: list[Figure] = []
    for name in names:
        kind = name.split()[1]
        if kind in ("cold", "warm"):
            found.append(
                _figure(runs, name, f"{name}: TTFT", "ms", lambda m: m.sample.first_s * 1e3)
            )
        if kind == "cold":
            found.append(
                _figure(runs, name, f"{name}: prefill", "tok/s", lambda m: m.sample.prefill_rate)
            )
        if kind == "warm":
            found.append(
                _figure(runs, name, f"{name}: prefilled", "tokens", lambda m: _computed(m))
            )
        if kind == "decode":
            found.append(_figure(runs, name, name, "tok/s", lambda m: m.sample.decode_rate))
        if kind == "turn":
            found.append(
                _figure(runs, name, f"{name}: decode", "tok/s", lambda m: m.sample.decode_rate)
            )
    if any(name.startswith("card") for name in names):
        found.append(Figure("card best of turns 2-4", "tok/s", True, _card_best(runs)))
    return [figure for figure in found if figure.spreads]


def _computed(measurement: Measurement) -> float | None:
    sample = measurement.sample
    return float(sample.prompt_tokens - sample.cached_tokens) if sample.reported_cached else None


def _figure(runs: Runs, workload: str, name: str, unit: str, value: Any) -> Figure:
    spreads: dict[str, Spread] = {}
    for server, measured in runs.items():
        values = [value(m) for m in measured if m.name == workload]
        known = [v for v in values if v is not None]
        if known:
            spreads[server] = Spread.of(known)
    return Figure(name, unit, unit == "tok/s", spreads)


def _card_best(runs: Runs) -> dict[str, Spread]:
    """The card's own number, the best of turns 2 to 4, once for each round."""
    best: dict[str, Spread] = {}
    for server, measured in runs.items():
        rounds: dict[int, float] = {}
        for m in measured:
            rate = m.sample.decode_rate
            if m.name in ("card turn 2", "card turn 3", "card turn 4") and rate is not None:
                rounds[m.round] = max(rate, rounds.get(m.round, 0.0))
        if rounds:
            best[server] = Spread.of(list(rounds.values()))
    return best


def table(runs: Runs) -> str:
    """The figures as text: median [least..most] of each server; the ratio where there are two."""
    return figures_table(figures(runs), list(runs))


def figures_table(found: Sequence[Figure], servers: Sequence[str]) -> str:
    """One line for each figure, one column for each server."""
    rows = [["", *servers] + (["ratio"] if len(servers) == 2 else [])]
    for figure in found:
        cells = [f"{figure.name}, {figure.unit}"]
        cells += [_cell(figure.spreads.get(server)) for server in servers]
        if len(servers) == 2:
            cells.append(_ratio_cell(figure.ratio(*servers)))
        rows.append(cells)
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, as columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.count == 1:
        return _number(spread.median)
    return f"{_number(spread.median)} [{_number(spread.least)}..{_number(spread.most)}]"


def _ratio_cell(ratio: tuple[float, bool] | None) -> str:
    if ratio is None:
        return "-"
    times, clear = ratio
    return f"{times:.2f}x" if clear else f"~ ({times:.2f}x)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def receipt(runs: Runs, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to judge or repeat the measurement, as JSON values."""
    servers = list(runs)
    return {
        "machine": machine(),
        "versions": versions(),
        "conditions": dict(conditions),
        "figures": [figure_json(figure, servers) for figure in figures(runs)],
        "samples": {
            server: [{"name": m.name, "round": m.round, **m.sample.as_json()} for m in measured]
            for server, measured in runs.items()
        },
    }


def figure_json(figure: Figure, servers: Sequence[str]) -> dict[str, Any]:
    """A figure's line in the receipt."""
    line: dict[str, Any] = {
        "name": figure.name,
        "unit": figure.unit,
        "servers": {server: asdict(spread) for server, spread in figure.spreads.items()},
    }
    ratio = figure.ratio(servers[0], servers[1]) if len(servers) == 2 else None
    if ratio is not None:
        line["ratio"] = {"times_better": ratio[0], "beyond_noise": ratio[1]}
    return line


def machine() -> dict[str, Any]:
    """What the figures were measured on, without names or paths of this machine."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
    }


def _processor() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = [
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            ]
    except OSError:
        found = []
    return found[0] if found else platform.processor()


def versions() -> dict[str, str]:
    """Of the interpreter and the packages that matter."""
    found = {"python": platform.python_version()}
    for package in ("mxserve", "mlx", "tokenizers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes: others' work distorts what is measured here."""
    return [round(value, 2) for value in os.getloadavg()]


def headline(receipt_: Mapping[str, Any]) -> str:
    """Machine, versions and load in two lines, and a warning when others worked on it too."""
    machine_, conditions = receipt_["machine"], receipt_["conditions"]
    before, after = (conditions[f"load_average_{when}"][0] for when in ("before", "after"))
    lines = [
        f"{machine_['processor']}, {machine_['cores']} cores, {machine_['memory_gib']} GiB, "
        f"{machine_['system']} {machine_['architecture']}; "
        + ", ".join(f"{name} {version}" for name, version in receipt_["versions"].items()),
        f"load average {before} before, {after} after",
    ]
    if before > 0.5 * (machine_["cores"] or 1):
        lines.append("The machine was busy with other work: these figures are distorted by it.")
    return "\n".join(lines)


def as_text(receipt_: Mapping[str, Any]) -> str:
    """The receipt as readable JSON."""
    return json.dumps(receipt_, indent=2, ensure_ascii=False)
