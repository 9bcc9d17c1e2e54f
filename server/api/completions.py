"""POST /v1/completions: raw prompts continued, one engine request for each.

Knows the order of things; the shapes are in completions_schema, completions_prompts and
completions_wire.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.answer_schemas import TextAnswer
from server.api.answering import streamed, whole
from server.api.body import read_object
from server.api.caller import session_of, tenant_of
from server.api.chat_wire import Answer
from server.api.completions_prompts import prompts_of
from server.api.completions_schema import CompletionRequest, parse_completion
from server.api.completions_wire import CompletionForm, TextChunks, WholeText
from server.api.errors import ApiError
from server.api.merged import Merged
from server.api.models import check_model
from server.api.openai_frames import Frames
from server.api.openapi import operation
from server.api.response_format import grammar_of
from server.api.sampling_fields import sampling_of
from server.api.serving import EventSource, Serving, engine_of, settings_of
from server.engine import GenerationDefaults, GenerationRequest, Thinking
from server.engine.errors import ContextOverflow
from server.settings import Settings

router = APIRouter()


@router.post("/v1/completions", openapi_extra=operation(CompletionRequest, TextAnswer, stream=True))
@router.post("/v1/completions/", include_in_schema=False)
@router.post("/completions", include_in_schema=False)
async def completions(request: Request) -> Response:
    settings = settings_of(request)
    engine = engine_of(request)
    body = await read_object(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout
    )
    wire = parse_completion(body)
    info = engine.info
    check_model(wire.model, info, strict=settings.strict_model)
    work = replace(
        _request(wire, info.defaults, settings),
        session=session_of(request.headers, wire.prompt_cache_key),
        tenant=tenant_of(request.headers),
    )
    form = CompletionForm(
        prompts=await prompts_of(wire, engine),
        n=work.n,
        logprobs=wire.logprobs,
        echo=bool(wire.echo),
        nothing=wire.token_limit == 0,
    )
    source = await _submit(engine, work, form, settings)
    answer = Answer(info.id, int(time.time()), f"cmpl-{uuid.uuid4().hex}", service_tier=None)
    if not wire.stream:
        return await whole(request, source, WholeText(answer, form))
    chunks = TextChunks(
        answer, form, include_usage=wire.include_usage, continuous_usage=wire.continuous_usage
    )
    return await streamed(source, Frames(chunks), settings)


def _request(
    wire: CompletionRequest, defaults: GenerationDefaults, settings: Settings
) -> GenerationRequest:
    """All but the prompt. An answer of no tokens is one token that nobody sees: the prompt's log
    probabilities come with it. Raises ApiError."""
    limit = wire.token_limit
    return GenerationRequest(
        messages=[],
        sampling=sampling_of(wire, defaults),
        thinking=Thinking(enabled=False),
        grammar=grammar_of(wire),
        logprobs=wire.logprobs,
        prompt_logprobs=wire.logprobs if wire.echo else None,
        stop=wire.stops,
        max_tokens=1 if limit == 0 else limit,
        n=wire.n or 1,
        timeout=settings.request_timeout,
    )


async def _submit(
    engine: Serving, work: GenerationRequest, form: CompletionForm, settings: Settings
) -> EventSource:
    """Raises ApiError or EngineError."""

    async def submit(number: int) -> EventSource:
        return await engine.submit(replace(work, prompt=form.prompts[number].prompt))

    try:
        if len(form.prompts) == 1:
            return await submit(0)
        merged = Merged(submit, len(form.prompts), max(1, settings.max_batch // work.n))
        await merged.start()
        return merged
    except ContextOverflow as error:  # which elsewhere is the messages' fault
        raise ApiError(str(error), param="prompt", code="context_length_exceeded") from None
