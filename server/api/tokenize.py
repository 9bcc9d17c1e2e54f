"""POST /tokenize, /detokenize and /apply-template, as vLLM's and llama.cpp's users know them.

A conversation is rendered exactly as a chat completion of the same body would be. Knows the two
peers' names for the same things; the tokens and the text are the engine's.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field, field_validator
from starlette.requests import Request

from server.api.answer_schemas import DetokenizeAnswer, TemplateAnswer, TokenizeAnswer
from server.api.body import read_object
from server.api.chat import generation_request
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, Fields, parse
from server.api.models import check_model
from server.api.openapi import operation
from server.api.serving import engine_of, settings_of
from server.api.wire_shapes import MESSAGE, TOKEN
from server.engine import Rendered

router = APIRouter()

MAX_TOKENS = 2_000_000
Json = dict[str, Any]


class TokenizeRequest(Fields):
    """`prompt` is vLLM's name for the text, `content` llama.cpp's; with `messages` the body is a
    chat's, and its fields mean what they mean there."""

    model: str | None = Field(None, max_length=1024, description="a string")
    prompt: str | None = Field(None, description="a string")
    content: str | None = Field(None, description="a string")
    messages: list[Any] | None = Field(
        None,
        description="a list of messages",
        json_schema_extra={"anyOf": [{"type": "array", "items": MESSAGE}, {"type": "null"}]},
    )
    parse_special: bool | None = Field(None, description=SWITCH)
    return_token_strs: bool | None = Field(None, description=SWITCH)
    with_pieces: bool | None = Field(None, description=SWITCH)


class DetokenizeRequest(Fields):
    model: str | None = Field(None, max_length=1024, description="a string")
    tokens: list[int] = Field(
        max_length=MAX_TOKENS,
        description=f"a list of up to {MAX_TOKENS} token ids",
        json_schema_extra={"items": TOKEN},
    )

    @field_validator("tokens")
    @classmethod
    def _ids(cls, tokens: list[int]) -> list[int]:
        if any(not 0 <= token <= MAX_INT32 for token in tokens):
            raise ValueError("range")
        return tokens


@router.post("/tokenize", openapi_extra=operation(TokenizeRequest, TokenizeAnswer))
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Json:
    body = await _body(request)
    wire = parse(TokenizeRequest, body)
    engine = engine_of(request)
    given = [name for name in ("prompt", "content", "messages") if body.get(name) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        text = f"One of prompt, content and messages is needed; got {got}."
        code = "invalid_value" if given else "missing_required_parameter"
        raise ApiError(text, param=given[1] if given else "prompt", code=code)
    if wire.messages is not None:
        tokens = (await _rendered(request, body)).tokens
    else:
        text = wire.content if wire.prompt is None else wire.prompt
        tokens = await engine.tokenize(text or "", special=wire.parse_special is not False)
    told: Json = {
        "tokens": tokens,
        "count": len(tokens),
        "max_model_len": engine.info.context_length,
    }
    if wire.with_pieces or wire.return_token_strs:
        pieces = await engine.token_texts(tokens)
        if wire.return_token_strs:
            told["token_strs"] = pieces
        if wire.with_pieces:
            pairs = zip(tokens, pieces, strict=True)
            told["tokens"] = [{"id": token, "piece": piece} for token, piece in pairs]
    return told


@router.post("/detokenize", openapi_extra=operation(DetokenizeRequest, DetokenizeAnswer))
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Json:
    wire = parse(DetokenizeRequest, await _body(request))
    text = await engine_of(request).detokenize(wire.tokens)
    return {"prompt": text, "content": text}


@router.post("/apply-template", openapi_extra=operation(ChatRequest, TemplateAnswer))
@router.post("/v1/apply-template", include_in_schema=False)
async def apply_template(request: Request) -> Json:
    return {"prompt": (await _rendered(request, await _body(request))).text}


async def _body(request: Request) -> Json:
    settings = settings_of(request)
    body = await read_object(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout
    )
    name = body.get("model")
    info = engine_of(request).info
    check_model(name if isinstance(name, str) else None, info, strict=settings.strict_model)
    return body


async def _rendered(request: Request, body: Json) -> Rendered:
    """The prompt of the chat that `body` is."""
    engine, settings = engine_of(request), settings_of(request)
    work = generation_request(parse_chat(body), engine.info.defaults, settings, request.headers)
    return await engine.render(work)
