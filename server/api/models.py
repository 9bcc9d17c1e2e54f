"""GET /v1/models and /v1/models/{id}, and the policy on model names.

Cards and lists have OpenAI's fields and Anthropic's, so that either's client can read them. One
model is loaded and answers whatever name a request gives, since clients send all kinds;
answers carry the served name. With strict names an unknown one is a 404.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from server.api.answer_schemas import ModelCard, ModelList
from server.api.errors import ApiError
from server.api.openapi import operation
from server.api.serving import engine_of
from server.engine import ModelInfo

router = APIRouter()


def check_model(name: str | None, info: ModelInfo, *, strict: bool) -> None:
    """Raises ApiError (404) where names are strict and `name` is another model's."""
    if strict and name not in (None, "", info.id):
        raise _not_found(name, info)


def _not_found(name: str, info: ModelInfo) -> ApiError:
    return ApiError(
        f"The model {name!r:.120} does not exist; this server has {info.id!r}.",
        param="model",
        code="model_not_found",
        status=404,
    )


def _card(info: ModelInfo) -> dict[str, Any]:
    created = datetime.fromtimestamp(info.created, UTC)
    return {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": "mxserve",
        "context_length": info.context_length,
        "max_model_len": info.context_length,
        "type": "model",
        "display_name": info.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": info.context_length,
        "max_tokens": info.context_length,
        "lifecycle": "active",
    }


@router.get("/v1/models", openapi_extra=operation(answer=ModelList))
@router.get("/v1/models/", include_in_schema=False)
@router.get("/models", include_in_schema=False)
@router.get("/models/", include_in_schema=False)
async def models(request: Request) -> dict[str, Any]:
    card = _card(engine_of(request).info)
    return {
        "object": "list",
        "data": [card],
        "has_more": False,
        "first_id": card["id"],
        "last_id": card["id"],
    }


@router.get("/v1/models/{name:path}", openapi_extra=operation(answer=ModelCard))
@router.get("/models/{name:path}", include_in_schema=False)
async def one_model(request: Request, name: str) -> dict[str, Any]:
    info = engine_of(request).info
    if name.removesuffix("/") != info.id:
        raise _not_found(name, info)
    return _card(info)
