"""Errors in Anthropic's shape: {"type": "error", "error": {"type", "message"}, "request_id"}.

Knows the names and wordings that its clients look for; which failure has which status is known
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.engine.errors import ContextOverflow, EngineError

PATH = "/v1/messages"

TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def in_dialect(path: str) -> bool:
    """Whether errors of `path` have this shape."""
    return path == PATH or path.startswith(f"{PATH}/")


def error_body(
    message: str, status: int, param: str | None = None, request_id: str | None = None
) -> dict[str, Any]:
    """The shape has no place for `param`: the message names the field."""
    param, message = _own_names(param or ""), _own_names(message)
    if param not in message:
        message = f"{param}: {message}"
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = {"type": kind, "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def _own_names(text: str) -> str:
    """The fields of tools, as this dialect calls them."""
    return text.replace("].function.", "].").replace("].parameters", "].input_schema")


def engine_body(
    error: EngineError, status: int, param: str | None, request_id: str | None
) -> dict[str, Any]:
    """The body of what the engine reports. A prompt that is too long is told in the words by which
    clients know that they have to shorten it, or to ask for less."""
    if not isinstance(error, ContextOverflow):
        return error_body(str(error), status, param, request_id)
    if error.requested is None or error.prompt_tokens >= error.limit:
        text = f"prompt is too long: {error.prompt_tokens} tokens > {error.limit - 1} maximum"
    else:
        text = (
            "input length and `max_tokens` exceed context limit: "
            f"{error.prompt_tokens} + {error.requested} > {error.limit}, "
            "decrease input length or `max_tokens` and try again"
        )
    return error_body(text, status, None, request_id)
