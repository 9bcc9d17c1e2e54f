"""Reads a request's body as one JSON object, whatever its content type says.

Knows the limits (size, time, encoding, depth) and the errors for them; no dialect's fields.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request

from server.api.errors import HTTP_ERRORS, ApiError

MAX_HELD_BYTES = 512 * 1024 * 1024  # of all bodies that are being received
_held_bytes = 0


def _refuse(status: int, message: str) -> ApiError:
    kind = HTTP_ERRORS[status]
    return ApiError(message, status=status, type=kind.type, code=kind.code)


async def read_object(request: Request, *, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """The body as a dict.

    Raises ApiError: 413 past `max_bytes` (before the rest is read), 408 when the body takes
    longer than `timeout_s` seconds, 415 for a compressed body, 503 while MAX_HELD_BYTES of bodies
    are being received, 400 for anything that is not one JSON object in UTF-8 (NaN, lone surrogates
    and extreme nesting included).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise _refuse(415, "Compressed request bodies are not supported; send it uncompressed.")
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _read(request, max_bytes)
    except TimeoutError:
        raise _refuse(408, f"The request body did not arrive within {timeout_s:g} s.") from None
    return parse_object(raw)


async def _read(request: Request, max_bytes: int) -> bytearray:
    too_large = _refuse(413, f"The request body is larger than {max_bytes} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise too_large
    global _held_bytes
    raw = bytearray()
    try:
        async for chunk in request.stream():
            if len(raw) + len(chunk) > max_bytes:
                raise too_large
            raw += chunk
            _held_bytes += len(chunk)
            if _held_bytes > max(MAX_HELD_BYTES, 2 * max_bytes):
                raise _busy()
    finally:
        _held_bytes -= len(raw)
    return raw


def _busy() -> ApiError:
    text = "Too many requests are being received at once. Please try again."
    return ApiError(text, status=503, type="server_error", code="unavailable")


def parse_object(raw: bytes | bytearray) -> dict[str, Any]:
    """`raw` as a dict. Raises ApiError (400) otherwise."""
    if not raw.strip():
        raise ApiError("The request body is empty; a JSON object is needed.", code="invalid_json")
    try:
        value = from_json(bytes(raw), allow_inf_nan=False)
    except ValueError as error:
        text = f"The request body is not valid JSON: {error}."
        raise ApiError(text, code="invalid_json") from None
    if not isinstance(value, dict):
        found = {list: "an array", str: "a string", type(None): "null"}.get(type(value), "a value")
        text = f"The request body must be a JSON object, got {found}."
        raise ApiError(text, code="invalid_json")
    return value
