"""GET /metrics: the server's figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.openapi import operation
from server.api.serving import metrics_of

router = APIRouter()


@router.get("/metrics", openapi_extra=operation())
async def metrics(request: Request) -> Response:
    """Figures in Prometheus' text format, or in OpenMetrics where that is asked for."""
    body, content_type = metrics_of(request).page(request.headers.get("accept", ""))
    return Response(body, media_type=None, headers={"content-type": content_type})
