"""Logging of a serving process: on stderr, a line for a record, as text or as JSON.

Whatever a record says, it cannot forge another one: control characters are escaped, and lines of a
traceback are indented. Knows formats and levels; not what is logged.
"""

from __future__ import annotations

import json
import logging
import logging.config
import time
from typing import Any, Literal

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_INDENT = "    | "
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:{}+")


class OneLine(logging.Formatter):
    """Text. `fields` of a record (`extra={"fields": {...}}`) follow as name=value."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        for name, value in getattr(record, "fields", {}).items():
            text += f" {name}={_shown(value)}"
        return _escaped(text)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(_INDENT + _escaped(line) for line in lines)


class JsonLine(logging.Formatter):
    """One JSON object in ASCII: time (UTC), level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        value: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, field in getattr(record, "fields", {}).items():
            value.setdefault(name, field)
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        return json.dumps(value, default=str)


def _shown(value: object) -> str:
    text = str(value)
    plain = text and _PLAIN.issuperset(text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def configure(level: str, form: Literal["text", "json"] = "text") -> None:
    """Sets up the root logger; uvicorn's loggers go through it."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine() if form == "json" else OneLine(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpx2", "httpcore", "sse_starlette", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING if level == "info" else level.upper())
