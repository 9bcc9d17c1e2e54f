"""GET /health, /health/live and /: is it there, can it serve, what is it.

Knows the engine's health only as the engine tells it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server import __version__
from server.api.serving import engine_of

router = APIRouter()


@router.api_route("/health", methods=["GET", "HEAD"])
async def health(request: Request) -> Response:
    """200 when requests are taken, else 503 with the status and its reason."""
    state = engine_of(request).health()
    body: dict[str, Any] = {**asdict(state), "version": __version__}
    body["status"] = "ok" if state.status == "ready" else state.status
    body["model"] = state.model.id if state.model else None
    return JSONResponse(body, 200 if state.status == "ready" else 503)


@router.api_route("/health/live", methods=["GET", "HEAD"])
async def live() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


@router.api_route("/", methods=["GET", "HEAD"])
async def root() -> Response:
    return PlainTextResponse(f"mxserve {__version__}: OpenAI-compatible API under /v1\n")
