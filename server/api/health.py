"""GET /health, /health/live, /health/ready and /: is it there, can it serve, what is it.

Knows the engine's health only as the engine tells it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server import __version__
from server.api.answer_schemas import AliveAnswer, HealthAnswer
from server.api.openapi import operation
from server.api.serving import engine_of

router = APIRouter()

_STATES = operation(answer=HealthAnswer, unavailable=HealthAnswer)


@router.api_route("/health", methods=["GET", "HEAD"], openapi_extra=_STATES)
async def health(request: Request) -> Response:
    """200 when requests are taken, else 503 with the status and its reason; with all figures."""
    state = engine_of(request).health()
    body: dict[str, Any] = {**asdict(state), "version": __version__}
    body["model"] = state.model.id if state.model else None
    return _told(body, state.status)


@router.api_route("/health/ready", methods=["GET", "HEAD"], openapi_extra=_STATES)
async def ready(request: Request) -> Response:
    """200 when requests are taken, else 503; nothing but the status, since it needs no key."""
    return _told({}, engine_of(request).health().status)


@router.api_route(
    "/health/live", methods=["GET", "HEAD"], openapi_extra=operation(answer=AliveAnswer)
)
async def live() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


def _told(body: dict[str, Any], status: str) -> Response:
    serves = status == "ready"
    return JSONResponse({**body, "status": "ok" if serves else status}, 200 if serves else 503)


@router.api_route("/", methods=["GET", "HEAD"], openapi_extra=operation())
async def root() -> Response:
    line = f"mxserve {__version__}: OpenAI-compatible API under /v1\n"
    return PlainTextResponse(line, headers={"Vary": "Accept"})  # see server.page
