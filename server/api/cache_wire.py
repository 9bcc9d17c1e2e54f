"""What the prompt cache did for a request, as clients see it: a header and a field.

Knows the report and its two forms; not how the cache came to it.
"""

from __future__ import annotations

from typing import Any

from server.engine.events import CacheReport

CACHE_HEADER = "x-mxserve-cache"

Json = dict[str, Any]


def cache_json(report: CacheReport) -> Json:
    """What the prompt cache did. `diverged` is null where nothing cached differed."""
    diverged: Json | None = None
    if report.change is not None or report.message is not None:
        diverged = {"message": report.message, "change": report.change}
    return {
        "reused_tokens": report.reused,
        "prefilled_tokens": report.prefilled,
        "common_tokens": report.common,
        "diverged": diverged,
    }


def cache_header(report: CacheReport) -> str:
    """The same in one line, as a dictionary of RFC 9651 (structured fields)."""
    parts = [f"reused={report.reused}", f"prefilled={report.prefilled}", f"common={report.common}"]
    if report.message is not None:
        parts.append(f"message={report.message}")
    if report.change is not None:
        parts.append(f'change="{report.change}"')
    return ", ".join(parts)


def cache_headers(report: CacheReport | None) -> dict[str, str]:
    """The response header; none where nothing is known."""
    return {CACHE_HEADER: cache_header(report)} if report is not None else {}
