"""Load on a server: some streams at once for a while, and a long prompt beside running streams.

Knows when to ask and what to take from the records. Nothing of servers, prompts' words or tables.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from server.bench.streams import Body, Stream, StreamClient, together

START_LIMIT_S = 300.0
CALM_S = 2.0


@dataclass(frozen=True, slots=True)
class Level:
    """What `streams` streams at once got; seconds and tokens per second.

    rate: tokens of all streams together, per second, once all of them ran. gaps: between pieces of
    text of one stream, in that time. first: from sending to the first text, every request. errors:
    why requests failed.
    """

    streams: int
    rate: float
    gaps: Sequence[float]
    first: Sequence[float]
    requests: int
    errors: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """The quantiles the report shows and what they were taken from."""
        return {
            "streams": self.streams,
            "tokens_per_s": self.rate,
            "gaps_s": quantiles(self.gaps),
            "first_text_s": quantiles(self.first),
            "requests": self.requests,
            "errors": list(self.errors),
        }


@dataclass(frozen=True, slots=True)
class Beside:
    """Running streams while a long prompt was prefilled beside them; seconds.

    calm: their gaps before; gaps: from sending the long prompt to its first text, each stream's
    silence at the end of that time included; first: how long that took, None when it failed.
    """

    streams: int
    calm: Sequence[float]
    gaps: Sequence[float]
    first: float | None
    errors: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """The quantiles the report shows."""
        return {
            "streams": self.streams,
            "calm_gaps_s": quantiles(self.calm),
            "gaps_s": quantiles(self.gaps),
            "first_text_s": self.first,
            "errors": list(self.errors),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of all values do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def quantiles(values: Sequence[float]) -> dict[str, float | int | None]:
    """Median, 99th percentile, most and count."""
    if not values:
        return {"p50": None, "p99": None, "most": None, "count": 0}
    return {
        "p50": quantile(values, 0.5),
        "p99": quantile(values, 0.99),
        "most": max(values),
        "count": len(values),
    }


async def level(
    client: StreamClient, body: Callable[[], Body], streams: int, seconds: float
) -> Level:
    """Keeps `streams` answers coming for `seconds`, counted from when all of them have begun; each
    that ends is followed by another. `body` makes a new request each time."""
    records: list[Stream] = []
    late: list[str] = []
    begun = [asyncio.Event() for _ in range(streams)]
    start = end = math.inf  # known once all have begun

    async def keep_asking(first: asyncio.Event) -> None:
        failures = 0
        while time.perf_counter() < end and failures < 3:
            record = await client.ask(body(), started=first)
            records.append(record)
            failures = failures + 1 if record.error else 0

    async def watch() -> None:
        nonlocal end, start
        if not await _all_begun(begun):
            late.append(f"not every stream began within {START_LIMIT_S:.0f} s")
        start = time.perf_counter()
        end = start + seconds

    await together([watch(), *(keep_asking(event) for event in begun)])
    return Level(
        streams=streams,
        rate=sum(record.tokens_between(start, end) for record in records) / seconds,
        gaps=[gap for record in records for gap in record.gaps_between(start, end)],
        first=[s for record in records if (s := record.first_s) is not None and record.sent < end],
        requests=len(records),
        errors=[*late, *(record.error for record in records if record.error)],
    )


async def _all_begun(begun: Sequence[asyncio.Event]) -> bool:
    """Waits for the first text of each stream; False when the time for it is over."""
    try:
        async with asyncio.timeout(START_LIMIT_S):
            for event in begun:
                await event.wait()
    except TimeoutError:
        return False
    return True


async def beside(
    client: StreamClient, body: Callable[[], Body], long_body: Body, streams: int
) -> Beside:
    """Starts `streams` answers, lets them run a while, sends `long_body` and hangs up on the others
    when its first text came. `body` has to ask for answers that outlast it."""
    over = asyncio.Event()
    records = [Stream() for _ in range(streams)]
    begun = [asyncio.Event() for _ in range(streams)]
    running = asyncio.gather(
        *(
            client.ask(body(), hang_up=lambda _: over.is_set(), started=event, into=record)
            for event, record in zip(begun, records, strict=True)
        )
    )
    try:
        all_begun = await _all_begun(begun)
        calm_from = time.perf_counter()
        await asyncio.sleep(CALM_S)
        calm_to = time.perf_counter()
        long = await client.ask(long_body)
    finally:
        over.set()
        await _finish(running)
    until = long.arrivals[0] if long.arrivals else time.perf_counter()
    gaps: list[float] = []
    for record in records:
        # The piece before the long prompt and the first one after it belong to it too.
        before = [at for at in record.arrivals if at <= long.sent][-1:]
        within = [at for at in record.arrivals if long.sent < at <= until]
        places = [*(before or [long.sent]), *within, until]
        gaps += [b - a for a, b in itertools.pairwise(places)]
    errors = [one.error for one in (*records, long) if one.error]
    if not all_begun:
        errors.append(f"not every stream began within {START_LIMIT_S:.0f} s")
    ended = sum(bool(one.finish_reason) for one in records)
    if ended:
        errors.append(f"{ended} of the running streams ended before the long prompt was read")
    return Beside(
        streams=streams,
        calm=[gap for one in records for gap in one.gaps_between(calm_from, calm_to)],
        gaps=gaps,
        first=None if long.error else long.first_s,
        errors=errors,
    )


async def _finish(running: asyncio.Future[Any]) -> None:
    """Streams hang up at their next piece; one that gets none any more is cancelled."""
    done, _ = await asyncio.wait([running], timeout=10.0)
    if not done:
        running.cancel()
        await asyncio.wait([running], timeout=10.0)
