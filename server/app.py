"""create_app(settings, engine): routes, error handlers and middleware as one ASGI application.

Knows the order of the layers; starting and stopping the engine is the command's affair.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from server import __version__, middleware
from server.api import (
    anthropic,
    chat,
    completions,
    errors,
    health,
    metrics,
    models,
    openapi,
    responses,
    tokenize,
)
from server.api.cache_wire import CACHE_HEADER
from server.api.serving import Serving
from server.engine.errors import EngineError
from server.keys import KeyRing
from server.metered import Metered
from server.metrics import Metrics
from server.page import Page
from server.settings import Settings

MODULES = (anthropic, chat, completions, responses, tokenize, models, health, metrics, openapi)
METRICS_PATH = "/metrics"
EXPOSED_HEADERS = ["x-request-id", "request-id", "retry-after", CACHE_HEADER]


def create_app(settings: Settings, engine: Serving) -> ASGIApp:
    """The application; its layers from the outside: request id, safe headers, limits of the head,
    host, origin, CORS, key. Raises KeyFileError."""
    keys = KeyRing((key.get_secret_value() for key in settings.api_key), settings.key_file)
    figures = Metrics(
        engine.health,
        lambda: engine.durations(),
        {"queue_limit": settings.max_queue, "connections_limit": settings.max_connections},
        [kind.code for kind in errors.ENGINE_ERRORS.values() if kind.code],
    )
    app = FastAPI(
        title="mxserve",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            errors.ApiError: errors.on_api_error,
            EngineError: errors.on_engine_error,
            HTTPException: errors.on_http_exception,
            ClientDisconnect: errors.on_client_gone,
            Exception: errors.on_crash,
        },
    )
    app.state.settings = settings
    app.state.engine = Metered(engine, figures, log_prompts=settings.log_prompts)
    app.state.metrics = figures
    app.state.keyed = bool(keys)
    app.state.responses = responses.responses_for(settings)
    for module in MODULES:
        app.include_router(module.router)
    app.state.routes = [route for module in MODULES for route in module.router.routes]
    app.state.described = None

    layers: ASGIApp = app
    if keys:
        also_open = (METRICS_PATH,) if settings.metrics_open else ()
        layers = middleware.ApiKey(layers, keys, also_open)
    if not settings.no_page:
        layers = Page(layers)
    if settings.cors_origin:
        layers = CORSMiddleware(
            layers,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST", "DELETE", "HEAD"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    layers = middleware.Origin(layers, settings.cors_origin)
    hosts = settings.host_names()
    if hosts is not None:
        layers = middleware.Host(layers, hosts)
    layers = middleware.SafeHeaders(middleware.HeadLimits(layers))
    return middleware.RequestId(layers, figures.ended)
