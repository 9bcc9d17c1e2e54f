"""The figures of a replay: sums over requests, a table, a receipt and a chart.

Knows requests and the definitions in docs/benchmarks/README.md. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.bench import report
from server.bench.chart import Panel, Point
from server.bench.replay import Replay, Request
from server.bench.trace import Trace

NOTABLE = ("edit", "regenerate", "branch")


@dataclass(frozen=True, slots=True)
class Sums:
    """Some requests of one replay, added up; tokens. Failed ones only count as such.

    prompt, computed: by the server's account. rendered, new, after_end: the replayer's own.
    computed is None when the server says nothing of its cache.
    """

    requests: int
    failed: int
    prompt: int
    computed: int | None
    rendered: int
    new: int
    after_end: int
    answered: int
    seconds: float

    @staticmethod
    def of(requests: Sequence[Request]) -> Sums:
        """Adds up `requests`."""
        good = [one for one in requests if one.error is None]
        known = [one.computed for one in good if one.computed is not None]
        return Sums(
            requests=len(requests),
            failed=len(requests) - len(good),
            prompt=sum(one.prompt_tokens for one in good),
            computed=sum(known) if len(known) == len(good) and good else None,
            rendered=sum(one.rendered for one in good),
            new=sum(one.new for one in good),
            after_end=sum(one.after_end for one in good),
            answered=sum(one.completion_tokens for one in good),
            seconds=sum(one.seconds for one in good),
        )

    @property
    def per_new(self) -> float | None:
        """Recomputed tokens per new token; 1 is the ideal."""
        return None if self.computed is None or not self.new else self.computed / self.new

    @property
    def ends_per_new(self) -> float | None:
        """The same for a cache that keeps a state at every end of a message, and only there."""
        return self.after_end / self.new if self.new else None

    @property
    def share(self) -> float | None:
        """Computed part of the prompt tokens."""
        return None if self.computed is None or not self.prompt else self.computed / self.prompt

    @property
    def ideal_share(self) -> float | None:
        """New part of the prompt tokens."""
        return self.new / self.rendered if self.rendered else None

    def as_json(self) -> dict[str, Any]:
        """All sums and quotients."""
        sums = {name: getattr(self, name) for name in self.__slots__}
        names = ("per_new", "ends_per_new", "share", "ideal_share")
        return {**sums, **{name: getattr(self, name) for name in names}}


def groups(requests: Sequence[Request]) -> dict[str, Sums]:
    """All requests, then those of each kind that is of interest by itself."""
    found = {"all": Sums.of(requests)}
    for kind in NOTABLE:
        some = [one for one in requests if one.kind == kind]
        if some:
            found[kind] = Sums.of(some)
    after = [one for one in requests if one.restarted]
    if after:
        found["first after restart"] = Sums.of(after)
    return found


HEAD = ("", "requests", "prompt", "new", "computed", "per new", "message ends", "share", "ideal")


def table(trace: Trace, replays: Mapping[str, Replay], *, restarted: bool) -> str:
    """A trace's figures as text, one line for each server and group of requests."""
    rows: list[Sequence[str]] = [HEAD]
    for server, one in replays.items():
        for name, sums in groups(one.requests).items():
            rows.append(
                [
                    server if name == "all" else f"  {name}",
                    str(sums.requests) + (f" ({sums.failed} failed)" if sums.failed else ""),
                    f"{sums.prompt:,}",
                    f"{sums.new:,}",
                    "?" if sums.computed is None else f"{sums.computed:,}",
                    _quotient(sums.per_new, 2),
                    _quotient(sums.ends_per_new, 2),
                    _quotient(sums.share, 3),
                    _quotient(sums.ideal_share, 3),
                ]
            )
    when = "; servers restarted half way" if restarted else ""
    lines = [f"{trace.name}: {trace.about}{when}", report.aligned(rows)]
    for server, one in replays.items():
        lines += _remarks(server, one)
    return "\n".join(lines)


def _remarks(server: str, one: Replay) -> list[str]:
    sums = Sums.of(one.requests)
    lines = []
    if one.keeps_thoughts:
        lines.append(
            f"{server} keeps thoughts in its prompts that were stripped from the messages: its "
            "prompts are longer, and each extends the one before."
        )
    if abs(sums.prompt - sums.rendered) > 0.01 * max(sums.rendered, 1):
        lines.append(
            f"{server} counts {sums.prompt:,} prompt tokens, rendered here they are "
            f"{sums.rendered:,}: it puts other text or ids into them."
        )
    if sums.computed is None and sums.failed < sums.requests:
        lines.append(f"{server} does not say what it took from its cache.")
    errors = dict.fromkeys(request.error for request in one.requests if request.error)
    lines += [f"{server}: a request failed: {error}" for error in errors]
    return lines


def _quotient(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def figures_json(trace: Trace, replays: Mapping[str, Replay]) -> dict[str, Any]:
    """A trace's part of the receipt."""
    return {
        "trace": trace.name,
        "about": trace.about,
        "servers": {
            server: {
                "keeps_thoughts": one.keeps_thoughts,
                "figures": {name: sums.as_json() for name, sums in groups(one.requests).items()},
                "requests": [request.as_json() for request in one.requests],
            }
            for server, one in replays.items()
        },
    }


def panel(trace: Trace, replays: Mapping[str, Replay]) -> Panel:
    """Prompt tokens computed so far, over the requests; each server beside its own ideal."""
    series: dict[str, list[Point]] = {}
    for server, one in replays.items():
        if Sums.of(one.requests).computed is not None:
            series[server] = _running(one.requests, lambda request: request.computed or 0)
    first, one = next(iter(replays.items()))
    series[f"ideal ({first})"] = _running(one.requests, lambda request: request.new)
    return Panel(
        f"{trace.name}: {trace.about}", "requests", "prompt tokens computed so far", series
    )


def _running(requests: Sequence[Request], value: Callable[[Request], int]) -> list[Point]:
    points: list[Point] = [(0.0, 0.0)]
    for number, request in enumerate(requests, start=1):
        points.append((float(number), points[-1][1] + value(request)))
    return points
