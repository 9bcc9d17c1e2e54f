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

from server.api.answer_schemas import ChatAnswer
from server.api.answering import streamed, whole
from server.api.body import read_object
from server.api.caller import session_of, tenant_of
from server.api.chat_chunks import Chunks
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.chat_wire import Answer, Form, Whole
from server.api.effort import thinking_of
from server.api.errors import ApiError
from server.api.messages import template_messages
from server.api.models import check_model
from server.api.openai_frames import Frames
from server.api.openapi import operation
from server.api.response_format import grammar_of
from server.api.sampling_fields import sampling_of
from server.api.serving import engine_of, settings_of
from server.api.tool_choice import tool_choice_of
from server.api.tools import Offered, offered_tools
from server.engine import GenerationDefaults, GenerationRequest, ToolChoice
from server.settings import Settings

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=operation(ChatRequest, ChatAnswer, stream=True))
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
    form = Form(
        n=work.n,
        logprobs=work.logprobs is not None,
        functions=chat.functions is not None,
        prefix=work.messages[-1]["content"] if chat.echo else "",
    )
    if not chat.stream:
        return await whole(request, source, Whole(answer, form))
    chunks = Chunks(
        answer, form, include_usage=chat.include_usage, continuous_usage=chat.continuous_usage
    )
    return await streamed(source, Frames(chunks), settings)


def generation_request(
    chat: ChatRequest,
    defaults: GenerationDefaults,
    settings: Settings,
    headers: Mapping[str, str],
) -> GenerationRequest:
    """`chat` as the engine's request; `headers` tell who asks. Raises ApiError."""
    kwargs = chat.chat_template_kwargs
    tools, choice = _tools(chat)
    return GenerationRequest(
        messages=_messages(chat),
        tools=tools.functions,
        tool_places=tools.places,
        tool_choice=choice,
        sampling=sampling_of(chat, defaults),
        thinking=thinking_of(chat, settings.effort_budgets),
        grammar=grammar_of(chat),
        logprobs=chat.logprob_count,
        stop=chat.stops,
        max_tokens=chat.token_limit,
        n=chat.n or 1,
        preserve_thinking=kwargs.preserve_thinking if kwargs else None,
        continue_final=bool(chat.continue_final_message),
        session=session_of(headers, chat.prompt_cache_key),
        timeout=settings.request_timeout,
        tenant=tenant_of(headers),
    )


def _messages(chat: ChatRequest) -> list[dict]:
    messages = template_messages(chat.messages)
    if chat.continue_final_message:
        last = messages[-1]
        if last["role"] != "assistant" or last.get("tool_calls"):
            raise ApiError(
                "continue_final_message needs a last message of the assistant, without tool_calls.",
                param="continue_final_message",
            )
    return messages


def _tools(chat: ChatRequest) -> tuple[Offered, ToolChoice]:
    """The tools offered and the choice among them; `functions`, their first name, are tools of
    which one is called at most."""
    if chat.functions is None:
        if chat.function_call not in (None, "none", "auto"):
            raise ApiError("function_call needs functions.", param="function_call")
        offered = offered_tools(chat.tools)
        choice = tool_choice_of(chat.tool_choice, chat.parallel_tool_calls, offered.names)
        return offered, choice
    if chat.tools:
        raise ApiError("Give tools or functions, not both.", param="functions")
    offered = offered_tools(chat.functions, "functions")
    choice = tool_choice_of(chat.function_call, False, offered.names, "function_call")
    return offered, choice
