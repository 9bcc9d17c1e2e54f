"""POST /v1/chat/completions: wire request -> engine request, engine events -> response.

Knows the order of things (parse, submit, then answer whole or in a stream); the shapes are in
chat_schema, messages, tools and chat_wire.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.answering import streamed, whole
from server.api.body import read_object
from server.api.caller import session_of, tenant_of
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.chat_wire import Answer, Chunks, Frames, Whole
from server.api.effort import thinking_of
from server.api.messages import template_messages
from server.api.models import check_model
from server.api.sampling_fields import sampling_of
from server.api.serving import engine_of, settings_of
from server.api.tools import offered_tools
from server.engine import GenerationDefaults, GenerationRequest
from server.settings import Settings

router = APIRouter()


@router.post("/v1/chat/completions")
@router.post("/v1/chat/completions/", include_in_schema=False)
@router.post("/chat/completions", include_in_schema=False)
async def chat_completions(request: Request) -> Response:
    settings = settings_of(request)
    engine = engine_of(request)
    body = await read_object(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout
    )
    chat = parse_chat(body)
    info = engine.info
    check_model(chat.model, info, strict=settings.strict_model)
    work = generation_request(chat, info.defaults, settings, request.headers)
    source = await engine.submit(work)
    answer = Answer(model=info.id, created=int(time.time()))
    if not chat.stream:
        return await whole(request, source, Whole(answer, work.n))
    usage = bool(chat.stream_options and chat.stream_options.include_usage)
    chunks = Chunks(answer, work.n, include_usage=usage)
    return await streamed(source, Frames(chunks), settings)


def generation_request(
    chat: ChatRequest,
    defaults: GenerationDefaults,
    settings: Settings,
    headers: Mapping[str, str],
) -> GenerationRequest:
    """`chat` as the engine's request; `headers` tell who asks. Raises ApiError."""
    kwargs = chat.chat_template_kwargs
    return GenerationRequest(
        messages=template_messages(chat.messages),
        tools=offered_tools(chat.tools, chat.tool_choice),
        sampling=sampling_of(chat, defaults),
        thinking=thinking_of(chat, settings.effort_budgets),
        stop=tuple(chat.stop or ()),
        max_tokens=chat.token_limit,
        n=chat.n or 1,
        preserve_thinking=kwargs.preserve_thinking if kwargs else None,
        session=session_of(headers, chat.prompt_cache_key),
        timeout=settings.request_timeout,
        tenant=tenant_of(headers),
    )
