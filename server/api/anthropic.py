"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's dialect.

Knows the order of things (parse, submit, then answer whole or in a stream); the shapes are in the
modules named anthropic_*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from model.sampling import SamplingParams
from server.api.answering import streamed, whole
from server.api.anthropic_answer_schemas import MessageAnswer, MessagesErrorAnswer, TokenCount
from server.api.anthropic_blocks import Conversation, conversation
from server.api.anthropic_errors import PATH
from server.api.anthropic_origins import WithOrigins
from server.api.anthropic_schema import MessagesRequest, PromptFields
from server.api.anthropic_tools import choice_of, offered
from server.api.anthropic_wire import Answer, Frames, Whole, ping
from server.api.body import read_object
from server.api.caller import session_of, tenant_of
from server.api.errors import request_id
from server.api.fields import parse
from server.api.models import check_model
from server.api.openapi import operation
from server.api.sampling_fields import SamplingFields, sampling_of
from server.api.serving import EventSource, Serving, engine_of, settings_of
from server.engine import GenerationRequest
from server.engine.errors import ContextOverflow
from server.settings import Settings

router = APIRouter()

F = TypeVar("F", bound=PromptFields)


@router.post(
    PATH,
    openapi_extra=operation(
        MessagesRequest, MessageAnswer, stream=True, failure=MessagesErrorAnswer
    ),
)
@router.post(f"{PATH}/", include_in_schema=False)
async def messages(request: Request) -> Response:
    settings, engine = settings_of(request), engine_of(request)
    asked = await _parsed(request, MessagesRequest)
    told = conversation(asked.system, asked.messages)
    work = replace(
        _prompted(asked, told, sampling_of(asked, engine.info.defaults), settings, request.headers),
        stop=tuple(asked.stop_sequences or ()),
        max_tokens=max(1, asked.max_tokens),
        session=session_of(request.headers, None) or asked.session,
        timeout=settings.request_timeout,
    )
    events, cut = await _submitted(engine, work)
    source = WithOrigins(events, told.origins)
    answer = Answer(engine.info.id, cut, asked.shows_thought, silent=asked.max_tokens == 0)
    if not asked.stream:
        return await whole(request, source, Whole(answer))
    return await streamed(source, Frames(answer, request_id(request.scope)), settings, ping)


@router.post(
    f"{PATH}/count_tokens",
    openapi_extra=operation(PromptFields, TokenCount, failure=MessagesErrorAnswer),
)
@router.post(f"{PATH}/count_tokens/", include_in_schema=False)
async def count_tokens(request: Request) -> Response:
    settings, engine = settings_of(request), engine_of(request)
    asked = await _parsed(request, PromptFields)
    told = conversation(asked.system, asked.messages)
    sampling = sampling_of(parse(SamplingFields, {}), engine.info.defaults)
    work = _prompted(asked, told, sampling, settings, request.headers)
    rendered = await engine.render(work)
    return JSONResponse({"input_tokens": len(rendered.tokens)})


async def _parsed(request: Request, kind: type[F]) -> F:
    settings = settings_of(request)
    body: dict[str, Any] = await read_object(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout
    )
    asked = parse(kind, body)
    check_model(asked.model, engine_of(request).info, strict=settings.strict_model)
    return asked


def _prompted(
    asked: PromptFields,
    told: Conversation,
    sampling: SamplingParams,
    settings: Settings,
    headers: Mapping[str, str],
) -> GenerationRequest:
    """All of the engine's request that makes its prompt. Raises ApiError."""
    tools = offered(asked.tools)
    return GenerationRequest(
        messages=told.messages,
        sampling=sampling,
        tools=tools.functions,
        tool_places=tools.places,
        tool_choice=choice_of(asked.tool_choice, tools.names),
        thinking=asked.thinking_for(settings.effort_budgets, after_tools=told.after_tools),
        grammar=asked.grammar(),
        continue_final=told.continues,
        tenant=tenant_of(headers),
    )


async def _submitted(engine: Serving, work: GenerationRequest) -> tuple[EventSource, bool]:
    """The events of `work`, and whether the context has less room than it asks for: clients ask
    for much more than they need, so that the answer then ends where the context does."""
    try:
        return await engine.submit(work), False
    except ContextOverflow as error:
        room = error.limit - error.prompt_tokens
        if error.requested is None or room < 1:
            raise
        return await engine.submit(replace(work, max_tokens=room)), True
