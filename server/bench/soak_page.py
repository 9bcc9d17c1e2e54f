"""A finished soak, for people: lines and a chart."""

from __future__ import annotations

from collections.abc import Callable

from server.bench.chart import Panel, Point
from server.bench.process_figures import ProcessFigures
from server.bench.soak_report import MIB, PICKS, Reading, Soak


def soak_page(soak: Soak) -> str:
    """What a soak found, in lines."""
    tally = soak.tally
    dialects = ", ".join(f"{name} {count:,}" for name, count in sorted(tally.dialects.items()))
    kinds = ", ".join(f"{kind}: {count}" for kind, count in tally.errors.items())
    slope = "too few readings" if soak.slope is None else f"{soak.slope:+.2f} MiB a minute"
    lines = [
        f"{soak.streams} streams for {soak.seconds / 60:.1f} minutes: {tally.requests:,} requests "
        f"({dialects}), {tally.tokens:,} pieces of text; the server was killed {soak.kills} times",
        f"whole answers: {tally.whole:,}; hung up on: {tally.hung_up:,}; cancelled: "
        f"{tally.cancelled:,}; over-long, refused: {tally.over_long:,}; interrupted by a kill: "
        f"{tally.interrupted:,}; refused (429): {tally.refused:,}",
        f"as the reference: {tally.same:,}; other words: {tally.other_words:,}; lost: "
        f"{tally.lost}; doubled: {tally.doubled}; failed: {tally.failed} {kinds}".rstrip(),
        *(_grown(name, soak.growth(pick)) for name, pick in PICKS.items()),
        f"slope of resident memory: {slope}",
        f"idle, before: {_idle(soak.before)}; after: {_idle(soak.after)}",
        "at the end: " + ", ".join(f"{name} {value}" for name, value in soak.idle.items()),
    ]
    lines += [f"FAILED: {why}" for why in soak.failures]
    return "\n".join(lines)


def _idle(figures: ProcessFigures) -> str:
    return f"{figures.files} files, {figures.threads} threads"


def _grown(name: str, growth: tuple[int, int] | None) -> str:
    if growth is None:
        return f"{name}: too few readings"
    unit, scale = ("MiB", MIB) if "memory" in name else ("", 1)
    before, after = (value / scale for value in growth)
    return (
        f"{name}: {before:,.0f} {unit} in the second quarter, {after:,.0f} {unit} in the last "
        f"({after - before:+,.1f})"
    ).replace("  ", " ")


def soak_panels(soak: Soak) -> list[Panel]:
    """Memory over time."""
    picks: tuple[tuple[str, Callable[[Reading], int | None]], ...] = (
        ("resident", lambda reading: reading.rss),
        ("active", lambda reading: reading.active),
    )
    series: dict[str, list[Point]] = {}
    for name, pick in picks:
        pairs = [(reading.at_s, pick(reading)) for reading in soak.readings]
        points = [(at, value / MIB) for at, value in pairs if value is not None]
        if points:
            series[name] = points
    title = f"Memory under {soak.streams} streams with disconnects"
    return [Panel(title, "seconds", "MiB", series)] if series else []
