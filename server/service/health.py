"""What a running server says of itself, in words for a terminal.

Asks over HTTP; a server with keys tells details to those who have one (MXSERVE_API_KEY).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx

from server.settings import Settings

ANSWER_S = 5.0


def url_of(settings: Settings) -> str:
    """Where the server answers to programs on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def asked(url: str) -> dict[str, Any] | None:
    """The server's health, None where nobody answers. `status` is always in it."""
    key = os.environ.get("MXSERVE_API_KEY", "").split(",")[0].strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, timeout=ANSWER_S, trust_env=False) as client:
            reply = client.get("/health", headers=headers)
            if reply.status_code == 401:
                reply = client.get("/health/ready")
                return {**_object(reply), "reason": "figures need a key: set MXSERVE_API_KEY"}
            return _object(reply)
    except httpx.HTTPError:
        return None


def lines(health: Mapping[str, Any]) -> list[str]:
    """name and fact, a line each, the most important first."""
    facts = [("health", _with_reason(str(health["status"]), health.get("reason")))]
    model = health.get("model")
    if model:
        state = health.get("model_state")
        facts.append(("model", f"{model}" if state in (None, "loaded") else f"{model} ({state})"))
    if (uptime := health.get("uptime_s")) is not None:
        facts.append(("uptime", span(uptime)))
    if "slots" in health:
        active, slots, queued = health["active"], health["slots"], health["queued"]
        facts.append(("requests", f"{active} of {slots} slots, {queued} waiting"))
    memory = health.get("memory") or {}
    if memory.get("limit_bytes"):
        active, limit = memory["active_bytes"] / 2**30, memory["limit_bytes"] / 2**30
        facts.append(("memory", f"{active:.1f} of {limit:.1f} GiB"))
    if "version" in health:
        facts.append(("version", str(health["version"])))
    return [f"{name:<9} {fact}" for name, fact in facts]


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _with_reason(status: str, reason: object) -> str:
    return f"{status}: {reason}" if reason else status


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if isinstance(value, dict) and "status" in value:
        return value
    return {"status": f"not mxserve's: HTTP {reply.status_code}"}
