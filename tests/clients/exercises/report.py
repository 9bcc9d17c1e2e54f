"""How an exercise in Python tells what it tried: one JSON line on stdout for each check.

Runs inside a client's own environment, so it knows the standard library only; where the server is
comes from the environment.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

ROOT = os.environ["MXSERVE_URL"]
URL = f"{ROOT}/v1"
MODEL = os.environ["MXSERVE_MODEL"]
KEY = "none"

FRANCE = "What is the capital of France?"
ITALY = "What is the capital of Italy?"
SPAIN_AS_JSON = "Give the capital of Spain as JSON."
WEATHER_IN_PARIS = "What is the weather in Paris?"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "the city"}},
    "required": ["city"],
}
CAPITAL: dict[str, Any] = {
    "type": "object",
    "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
    "required": ["country", "capital"],
    "additionalProperties": False,
}
RESULT = {"temperature": 21, "condition": "sunny"}


def expect(condition: object, what: object = "") -> None:
    """Fails the running check, with what was got in place of what was wanted."""
    if not condition:
        raise AssertionError(str(what)[:600])


def check(name: str) -> Callable[[Callable[[], Any]], None]:
    """Runs the decorated function (or coroutine) at once and reports it under this name."""

    def run(body: Callable[[], Any]) -> None:
        started = time.monotonic()
        error = None
        try:
            done = body()
            if inspect.iscoroutine(done):
                asyncio.run(done)
        except Exception as failure:
            last = traceback.extract_tb(failure.__traceback__)[-1]
            error = f"{type(failure).__name__}: {failure} ({last.name}:{last.lineno}: {last.line})"
        seconds = round(time.monotonic() - started, 2)
        line = {"check": name, "passed": error is None, "seconds": seconds, "error": error}
        print(json.dumps(line), flush=True)

    return run
