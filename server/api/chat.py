"""POST /v1/chat/completions: wire request -> engine request, engine events -> response.

Knows the order of things (parse, submit, then answer whole or in a stream) and what a client
that leaves means; the shapes are in chat_schema, messages, tools and chat_wire.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from model.sampling import SamplingParams
from server.api import sse
from server.api.body import read_object
from server.api.caller import session_of, tenant_of
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.chat_wire import Answer, Chunks, Whole, cache_header
from server.api.effort import thinking_of
from server.api.errors import CLIENT_CLOSED_REQUEST, engine_error_body
from server.api.messages import template_messages
from server.api.models import check_model
from server.api.peeked import Peeked
from server.api.serving import EventSource, engine_of, settings_of
from server.api.tools import offered_tools
from server.engine import GenerationDefaults, GenerationRequest
from server.engine.errors import EngineError, StepFailed
from server.engine.events import CacheReport, Event, Failed, Started
from server.settings import Settings

log = logging.getLogger(__name__)
router = APIRouter()

CACHE_HEADER = "x-mxserve-cache"
HEADERS_WAIT_S = 0.25  # how long a stream's headers wait for the request to start


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
        return await _whole(request, source, Whole(answer, work.n))
    usage = bool(chat.stream_options and chat.stream_options.include_usage)
    return await _streamed(source, Chunks(answer, work.n, include_usage=usage), settings)


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
        sampling=_sampling(chat, defaults),
        thinking=thinking_of(chat, settings.effort_budgets),
        stop=tuple(chat.stop or ()),
        max_tokens=chat.token_limit,
        n=chat.n or 1,
        preserve_thinking=kwargs.preserve_thinking if kwargs else None,
        session=session_of(headers, chat.prompt_cache_key),
        timeout=settings.request_timeout,
        tenant=tenant_of(headers),
    )


def _sampling(chat: ChatRequest, defaults: GenerationDefaults) -> SamplingParams:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return SamplingParams(
        temperature=given(chat.temperature, defaults.temperature),
        top_p=given(chat.top_p, defaults.top_p),
        top_k=max(0, int(given(chat.top_k, defaults.top_k))),
        min_p=given(chat.min_p, defaults.min_p),
        presence_penalty=given(chat.presence_penalty, 0.0),
        frequency_penalty=given(chat.frequency_penalty, 0.0),
        repetition_penalty=given(chat.repetition_penalty, 1.0),
        seed=None if chat.seed is None else chat.seed % 2**63,
        logit_bias={int(token): bias for token, bias in (chat.logit_bias or {}).items()},
    )


async def _whole(request: Request, source: EventSource, whole: Whole) -> Response:
    """Gathers the answer, unless the client leaves first."""
    gathering = asyncio.create_task(_gather(source, whole))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({gathering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not gathering.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return JSONResponse(gathering.result(), headers=_cache_headers(whole.cache))
    finally:
        source.cancel()
        gathering.cancel()
        leaving.cancel()


async def _gather(source: EventSource, whole: Whole) -> dict[str, object]:
    async for event in source:
        if isinstance(event, Failed):
            raise event.error
        whole.add(event)
    if not whole.complete:
        raise StepFailed("The engine ended this request early.")
    return whole.json()


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _cache_headers(report: CacheReport | None) -> dict[str, str]:
    return {CACHE_HEADER: cache_header(report)} if report is not None else {}


async def _streamed(source: EventSource, chunks: Chunks, settings: Settings) -> Response:
    """A stream of frames; its headers wait a moment for the request to start, so that they can
    tell what the cache did, and so that an error by then has a status of its own."""
    events = Peeked(source)
    try:
        first = await events.first(HEADERS_WAIT_S)
        if isinstance(first, Failed):
            raise first.error
    except BaseException:
        events.close()
        raise
    return sse.EventStream(
        _frames(events, chunks),
        ping_s=settings.ping_interval,
        send_timeout_s=settings.send_timeout,
        on_close=events.close,
        headers=_cache_headers(first.cache if isinstance(first, Started) else None),
    )


async def _frames(source: AsyncIterable[Event], chunks: Chunks) -> AsyncIterator[bytes]:
    """The answer's frames. A failure is a last frame of its own, never a bare cut."""
    try:
        async for event in source:
            if isinstance(event, Failed):
                raise event.error
            for chunk in chunks.add(event):
                yield sse.frame(chunk)
        if not chunks.complete:
            raise StepFailed("The engine ended this request early.")
        for chunk in chunks.closing():
            yield sse.frame(chunk)
        yield sse.DONE
    except EngineError as error:
        yield sse.frame(engine_error_body(error)[1])
    except Exception:
        log.exception("a stream failed")
        yield sse.frame(engine_error_body(EngineError("The server failed on this request."))[1])
