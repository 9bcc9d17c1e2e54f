"""The engine's refusals in the terms of a Responses request: its own names of fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.api.errors import ApiError, engine_error_body
from server.engine.errors import ContextOverflow, InvalidRequest


@contextmanager
def in_own_terms() -> Iterator[None]:
    """Raises ApiError in place of an error that names a field of the internal request."""
    try:
        yield
    except (InvalidRequest, ContextOverflow) as error:
        kind, body = engine_error_body(error)
        told = body["error"]
        raise ApiError(
            _renamed(told["message"]),
            param=_renamed(told["param"]) if told["param"] else None,
            code=kind.code,
            status=kind.status,
            type=kind.type,
        ) from None


def _renamed(text: str) -> str:
    """Messages were made of the input, and functions are flat."""
    if text == "messages" or text.startswith("messages["):
        return "input"
    return text.replace("].function.", "].").replace("max_tokens must", "max_output_tokens must")
