"""POST /v1/responses and what can be asked of a response later: OpenAI's newer dialect.

Knows the order of things (parse, look up what came before, submit, then answer whole or in a
stream); the shapes are in the modules named responses_*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.answering import streamed, whole
from server.api.anthropic_origins import WithOrigins
from server.api.body import read_object
from server.api.caller import session_of, tenant_of
from server.api.effort import thinking_of
from server.api.errors import ApiError
from server.api.models import check_model
from server.api.openapi import operation
from server.api.responses_choice import with_offered_names
from server.api.responses_errors import in_own_terms
from server.api.responses_history import items_before, resolved
from server.api.responses_ids import new_response_id
from server.api.responses_input import conversation, items_of
from server.api.responses_items import Form, Json
from server.api.responses_listed import listed, page
from server.api.responses_resource import Resource
from server.api.responses_running import Running
from server.api.responses_schema import ResponsesRequest, parse_responses
from server.api.responses_seal import Seal
from server.api.responses_shapes import DeletedResponse, InputTokens, ItemList, ResponseAnswer
from server.api.responses_store import Kept, Store
from server.api.responses_wire import Frames, Lifecycle, Whole
from server.api.sampling_fields import sampling_of
from server.api.serving import engine_of, settings_of
from server.api.tool_choice import tool_choice_of
from server.api.tools import offered_tools
from server.engine import GenerationRequest
from server.settings import Settings

router = APIRouter()

MAX_PAGE = 100
PAGE = 20


@dataclass(frozen=True, slots=True)
class Responses:
    """The responses of one server: those kept, and by id those being written."""

    store: Store
    running: dict[str, Running] = field(default_factory=dict)


def responses_for(settings: Settings) -> Responses:
    """What the routes here need of the application's state, as `responses`."""
    return Responses(Store(settings.response_place(), settings.response_store_bytes))


def _responses(request: Request) -> Responses:
    return cast(Responses, request.app.state.responses)


def _route(
    method: str, path: str, described: Json | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers an endpoint, also without /v1 and with a slash at the end. `described`: for the
    OpenAPI document; None leaves it out."""

    def register(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        for prefix, end in product(("/v1", ""), ("", "/")):
            shown = described is not None and (prefix, end) == ("/v1", "")
            router.add_api_route(
                f"{prefix}/responses{path}{end}",
                endpoint,
                methods=[method],
                include_in_schema=shown,
                openapi_extra=described if shown else None,
            )
        return endpoint

    return register


@_route("POST", "", operation(ResponsesRequest, ResponseAnswer, stream=True))
async def create_response(request: Request) -> Response:
    settings, engine = settings_of(request), engine_of(request)
    asked = await _parsed(request)
    prepared = await _prepared(request, asked)
    with in_own_terms():
        source = await engine.submit(prepared.work)
    ours = _responses(request)
    stored = asked.store is not False and ours.store.on
    tenant = prepared.work.tenant
    resource = Resource(
        new_response_id(),
        engine.info.id,
        asked,
        prepared.work.sampling,
        prepared.work.tool_choice,
        stored=stored,
    )
    life = Lifecycle(resource, prepared.form)

    def forget() -> None:
        ours.running.pop(life.id, None)

    async def keep(response: Json) -> None:
        await ours.store.keep(Kept(response, prepared.items), tenant)

    running = Running(
        WithOrigins(source, prepared.origins),
        life,
        tenant,
        prepared.items,
        keep=keep if stored else None,
        quiet_s=settings.ping_interval if asked.stream else None,
        on_end=forget,
    )
    ours.running[life.id] = running
    if not asked.stream:
        return await whole(request, running, Whole(life))
    return await streamed(running, Frames(life, settings.ping_interval), settings)


@_route("POST", "/input_tokens", operation(ResponsesRequest, InputTokens))
async def count_input_tokens(request: Request) -> Response:
    """The tokens of a request's prompt."""
    asked = await _parsed(request)
    prepared = await _prepared(request, asked)
    with in_own_terms():
        prompt = await engine_of(request).render(prepared.work)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(prompt.tokens)})


@_route("POST", "/compact", None)
async def compact(request: Request) -> Response:
    text = "Conversations are not compacted here; send the items that are still needed."
    raise ApiError(text, code="not_found", status=404)


@_route("GET", "/{id}", operation(answer=ResponseAnswer))
async def get_response(request: Request, id: str) -> Response:
    """A response that was kept, or as far as it is."""
    if request.query_params.get("stream", "").lower() in ("true", "1"):
        text = "A response can be streamed only while it is made; ask for it without stream."
        raise ApiError(text, param="stream", code="unsupported_parameter")
    running = _running(request, id)
    if running is not None:
        return JSONResponse(running.life.now())
    return JSONResponse((await _kept(request, id)).response)


@_route("DELETE", "/{id}", operation(answer=DeletedResponse))
async def delete_response(request: Request, id: str) -> Response:
    """Forgets a response; one that is being written is ended first."""
    running = _running(request, id)
    if running is not None:
        running.stop(forget=True)
    kept = await _responses(request).store.delete(id, tenant_of(request.headers))
    if running is None and not kept:
        raise _not_found(id)
    return JSONResponse({"id": id, "object": "response", "deleted": True})


@_route("POST", "/{id}/cancel", operation(answer=ResponseAnswer))
async def cancel_response(request: Request, id: str) -> Response:
    """Ends a response that is being written, where it is."""
    running = _running(request, id)
    if running is not None:
        running.stop()
        return JSONResponse(running.life.now())
    response = (await _kept(request, id)).response
    if response["status"] != "cancelled":
        text = (
            f"{id} is {response['status']}; only a response that is in progress can be cancelled."
        )
        raise ApiError(text, param="id")
    return JSONResponse(response)


@_route("GET", "/{id}/input_items", operation(answer=ItemList))
async def list_input_items(request: Request, id: str) -> Response:
    """The items that a response answered, those of the responses before it included."""
    query = request.query_params
    limit, order = query.get("limit", str(PAGE)), query.get("order", "desc")
    if not (limit.isascii() and limit.isdecimal()) or not 1 <= int(limit[:9]) <= MAX_PAGE:
        text = f"limit must be an integer from 1 to {MAX_PAGE}; got {limit!r:.80}."
        raise ApiError(text, param="limit")
    if order not in ("asc", "desc"):
        raise ApiError(f"order must be asc or desc; got {order!r:.80}.", param="order")
    running = _running(request, id)
    items = running.items if running is not None else (await _kept(request, id)).items
    told = page(items, query.get("after"), int(limit), descending=order == "desc")
    return JSONResponse(told)


async def _parsed(request: Request) -> ResponsesRequest:
    settings = settings_of(request)
    body = await read_object(
        request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout
    )
    asked = parse_responses(body)
    check_model(asked.model, engine_of(request).info, strict=settings.strict_model)
    return asked


@dataclass(frozen=True, slots=True)
class _Prepared:
    """work: for the engine. items: all that the response answers. origins: of the messages. form:
    of the answer."""

    work: GenerationRequest
    items: list[Json]
    origins: list[int | None]
    form: Form


async def _prepared(request: Request, asked: ResponsesRequest) -> _Prepared:
    """Raises ApiError."""
    settings, store = settings_of(request), _responses(request).store
    tenant = tenant_of(request.headers)
    before = await items_before(store, asked.previous_response_id, tenant)
    own = await resolved(items_of(asked.input), store, tenant)
    seal = Seal(await store.key(), tenant)
    told = conversation(asked.instructions, before, own, seal.open)
    offered = offered_tools(asked.tools)
    choice = with_offered_names(asked.tool_choice, offered)
    kwargs = asked.chat_template_kwargs
    work = GenerationRequest(
        messages=told.messages,
        tools=offered.functions,
        tool_places=offered.places,
        tool_choice=tool_choice_of(choice, asked.parallel_tool_calls, offered.names),
        sampling=sampling_of(asked, engine_of(request).info.defaults),
        thinking=thinking_of(asked, settings.effort_budgets),
        grammar=asked.any_grammar(),
        logprobs=asked.logprob_count,
        max_tokens=asked.token_limit,
        preserve_thinking=kwargs.preserve_thinking if kwargs else None,
        session=session_of(request.headers, asked.prompt_cache_key),
        timeout=settings.request_timeout,
        tenant=tenant,
    )
    form = Form(
        summary=asked.summary is not None,
        logprobs=asked.logprob_count is not None,
        seal=seal.close if asked.encrypted else None,
        namespaces=offered.namespaces,
    )
    return _Prepared(work, [*before, *listed(own)], told.origins, form)


def _running(request: Request, id: str) -> Running | None:
    """The response while it is being written, for the tenant whose it is."""
    running = _responses(request).running.get(id)
    if running is None or running.tenant != tenant_of(request.headers):
        return None
    return running


async def _kept(request: Request, id: str) -> Kept:
    kept = await _responses(request).store.load(id, tenant_of(request.headers))
    if kept is None:
        raise _not_found(id)
    return kept


def _not_found(id: str) -> ApiError:
    text = f"Response with id {id!r:.120} not found: it was not stored, or is no longer."
    return ApiError(text, code="not_found", status=404)
