"""GET /openapi.json: what this server takes and answers, from the schemas it checks requests with.

A route says what it is with `openapi_extra=operation(...)`; one that says nothing is described as
taking and answering any object. There are no pages of documentation here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from server import __version__
from server.api.answer_schemas import ErrorAnswer

router = APIRouter()

Json = dict[str, Any]
Model = type[BaseModel]
_KEY = "x-operation"
_REF = "#/components/schemas/{model}"
_FAILURE = "Refused or failed; see the message."


@dataclass(frozen=True, slots=True)
class Operation:
    """request, answer: the bodies; None is no body, or text. stream: with "stream": true the answer
    is server-sent events. failure: the body of every other status. unavailable: that of a 503,
    where it is another one."""

    request: Model | None = None
    answer: Model | None = None
    stream: bool = False
    failure: Model = ErrorAnswer
    unavailable: Model | None = None

    @property
    def models(self) -> list[Model]:
        found = (self.request, self.answer, self.failure, self.unavailable)
        return [model for model in found if model is not None]


def operation(
    request: Model | None = None,
    answer: Model | None = None,
    *,
    stream: bool = False,
    failure: Model = ErrorAnswer,
    unavailable: Model | None = None,
) -> Json:
    """A route's `openapi_extra`."""
    return {_KEY: Operation(request, answer, stream, failure, unavailable)}


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    state = request.app.state
    if state.described is None:  # it takes long to make, and is the same as long as this serves
        state.described = JSONResponse(document(state.routes, with_key=state.keyed)).body
    return Response(state.described, media_type="application/json")


def document(routes: Iterable[BaseRoute], *, with_key: bool) -> Json:
    """The OpenAPI 3.1 document of those of `routes` that are not aliases of others."""
    paths: Json = {}
    schemas: Json = {}
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        told = (route.openapi_extra or {}).get(_KEY)
        for method in sorted(route.methods or ()):
            paths.setdefault(route.path_format, {})[method.lower()] = _operation(
                route, method, told
            )
        for model in told.models if told else [ErrorAnswer]:
            for name, schema in _schemas(model).items():
                if schemas.setdefault(name, schema) != schema:
                    raise ValueError(f"two schemas have the name {name}")
    components: Json = {"schemas": schemas}
    result: Json = {
        "openapi": "3.1.0",
        "info": {"title": "mxserve", "version": __version__},
        "paths": paths,
        "components": components,
    }
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        result["security"] = [{"key": []}]
    return result


def _operation(route: APIRoute, method: str, told: Operation | None) -> Json:
    name = route.name if len(route.methods or ()) == 1 else f"{route.name}_{method.lower()}"
    result: Json = {"operationId": name}
    summary = (route.endpoint.__doc__ or "").strip().partition("\n\n")[0]
    if summary:
        result["summary"] = " ".join(summary.split())
    if route.param_convertors:
        result["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in route.param_convertors
        ]
    if method == "POST":
        schema = _ref(told.request) if told and told.request else {"type": "object"}
        body = {"application/json": {"schema": schema}}
        result["requestBody"] = {"required": True, "content": body}
    result["responses"] = dict(_responses(method, told))
    return result


def _responses(method: str, told: Operation | None) -> Iterator[tuple[str, Json]]:
    if method == "HEAD":
        yield "default", {"description": "As for GET, without a body."}
        return
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    if told is not None and told.answer is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
    elif told is not None and told.answer is not None:
        content = {"application/json": {"schema": _ref(told.answer)}}
        if told.stream:
            content["text/event-stream"] = {}  # 3.1 has no way to say what an event is
    yield "200", {"description": "The answer.", "content": content}
    if told is not None and told.unavailable is not None:
        schema = {"schema": _ref(told.unavailable)}
        text = "Not taking requests."
        yield "503", {"description": text, "content": {"application/json": schema}}
    failure = {"schema": _ref(told.failure if told else ErrorAnswer)}
    yield "default", {"description": _FAILURE, "content": {"application/json": failure}}


def _ref(model: Model) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas(model: Model) -> Json:
    """The model's schema and those it is made of, by name."""
    schema = model.model_json_schema(ref_template=_REF)
    inner = schema.pop("$defs", {})
    return {**inner, model.__name__: schema}
