"""Who is calling: the key presented, the tenant it makes, the session it belongs to.

Knows headers; whether a key is the right one is decided by the layers around the application.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

SESSION_HEADERS = (
    "x-session-id",
    "session-id",
    "x-claude-code-session-id",
    "agent-session-id",
)


def presented_key(headers: Mapping[str, str]) -> str:
    """The key sent as Bearer or as x-api-key; "" when there is none."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def tenant_of(headers: Mapping[str, str]) -> str:
    """Who shares cached prompts with whom: those who present the same key, as its SHA-256 in hex,
    so that the key itself goes nowhere; "" for all who present none."""
    key = presented_key(headers)
    return hashlib.sha256(key.encode()).hexdigest() if key else ""


def session_of(headers: Mapping[str, str], cache_key: str | None) -> str | None:
    """A hint that requests belong together: the body's `cache_key`, else a session header."""
    if cache_key:
        return cache_key
    return next((value for name in SESSION_HEADERS if (value := headers.get(name))), None)
