"""Errors as clients see them: a status, and a body in the shape of the dialect whose path it is.

Knows which failure gets which status (one table), and the shape of all paths but Anthropic's:
{"error": {"message", "type", "param", "code"}}. Does not know who raised it or why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from server.api import anthropic_errors
from server.engine import errors as engine

log = logging.getLogger(__name__)

BAD_REQUEST = "invalid_request_error"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the wire says of one class of failure."""

    status: int
    type: str
    code: str | None


ENGINE_ERRORS: Mapping[type[engine.EngineError], Kind] = {
    engine.InvalidRequest: Kind(400, BAD_REQUEST, "invalid_value"),
    engine.ContextOverflow: Kind(400, BAD_REQUEST, "context_length_exceeded"),
    engine.QueueFull: Kind(429, "rate_limit_error", "queue_full"),
    engine.Draining: Kind(503, "server_error", "unavailable"),
    engine.EngineDead: Kind(503, "server_error", "engine_dead"),
    engine.LoadFailed: Kind(503, "server_error", "model_load_failed"),
    engine.RequestTimeout: Kind(504, "server_error", "timeout"),
    engine.OutOfMemory: Kind(507, "server_error", "out_of_memory"),
    engine.StepFailed: Kind(500, "server_error", "step_failed"),
    engine.GrammarDeadEnd: Kind(500, "server_error", "grammar_dead_end"),
}

HTTP_ERRORS: Mapping[int, Kind] = {
    400: Kind(400, BAD_REQUEST, "invalid_value"),
    401: Kind(401, "authentication_error", "invalid_api_key"),
    403: Kind(403, "permission_error", "forbidden"),
    404: Kind(404, BAD_REQUEST, "not_found"),
    405: Kind(405, BAD_REQUEST, "method_not_allowed"),
    408: Kind(408, BAD_REQUEST, "request_timeout"),
    413: Kind(413, BAD_REQUEST, "request_too_large"),
    415: Kind(415, BAD_REQUEST, "unsupported_media_type"),
    431: Kind(431, BAD_REQUEST, "request_too_large"),
}

RETRY_WHEN_UNAVAILABLE_S = 2
CLIENT_CLOSED_REQUEST = 499


class ApiError(Exception):
    """A request the dialect itself refuses: `message` for people, `param` names the field."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = "invalid_value",
        status: int = 400,
        type: str = BAD_REQUEST,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.kind = Kind(status, type, code)


def envelope(message: str, kind: Kind, param: str | None = None) -> dict[str, Any]:
    """The one error body of this server, but for Anthropic's paths."""
    error = {"message": message, "type": kind.type, "param": param, "code": kind.code}
    return {"error": error}


def request_id(scope: Scope) -> str | None:
    """The id that the outermost layer gave the request."""
    return scope.get("state", {}).get("request_id")


def error_response(
    scope: Scope,
    message: str,
    kind: Kind,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error, in the shape of the path that was asked for."""
    if anthropic_errors.in_dialect(scope["path"]):
        body = anthropic_errors.error_body(message, kind.status, param, request_id(scope))
    else:
        body = envelope(message, kind, param)
    return JSONResponse(body, kind.status, headers=dict(headers or {}))


def http_error(
    scope: Scope, status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error that has a status of its own and no field to name."""
    kind = HTTP_ERRORS.get(status) or Kind(status, BAD_REQUEST, None)
    return error_response(scope, message, kind, headers=headers)


def engine_error_body(error: engine.EngineError) -> tuple[Kind, dict[str, Any]]:
    """Status and body for an engine error; an unlisted one is a 500."""
    kind = next((ENGINE_ERRORS[t] for t in type(error).__mro__ if t in ENGINE_ERRORS), None)
    kind = kind or Kind(500, "server_error", "internal_error")
    param = error.param if isinstance(error, engine.InvalidRequest) else None
    if isinstance(error, engine.ContextOverflow):
        param = "messages"
    if kind.status >= 500:
        log.warning("answered %d: %s", kind.status, error)
    return kind, envelope(str(error), kind, param)


async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
    """Handler of ApiError."""
    return error_response(request.scope, error.message, error.kind, error.param)


async def on_engine_error(request: Request, error: engine.EngineError) -> JSONResponse:
    """Handler of EngineError."""
    kind, body = engine_error_body(error)
    headers: dict[str, str] = {}
    if isinstance(error, engine.QueueFull):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    elif kind.status == 503:
        headers["Retry-After"] = str(RETRY_WHEN_UNAVAILABLE_S)
    if anthropic_errors.in_dialect(request.scope["path"]):
        body = anthropic_errors.engine_body(
            error, kind.status, body["error"]["param"], request_id(request.scope)
        )
    return JSONResponse(body, kind.status, headers=headers)


async def on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    """Handler of the router's own 404 and 405."""
    where = f"{request.method} {request.url.path[:200]}"
    told = {
        404: f"There is nothing at {where}.",
        405: f"{where} is not allowed; see the Allow header.",
    }
    text = told.get(error.status_code, error.detail)
    return http_error(request.scope, error.status_code, text, error.headers)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Handler of ClientDisconnect: nobody reads this."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def on_crash(request: Request, error: Exception) -> JSONResponse:
    """Handler of everything unforeseen. The traceback goes to the log, not to the client. The
    exception goes on to the HTTP server, which ends the connection: a client has to know."""
    kind = Kind(500, "server_error", "internal_error")
    told = {"Connection": "close"}
    return error_response(request.scope, "The server failed on this request.", kind, headers=told)
