"""The response object: what its request said, and how far it is.

Knows OpenAI's fields, those included that change nothing here and are only told back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from model.sampling import SamplingParams
from server.api.cache_wire import cache_json
from server.api.errors import engine_error_body
from server.api.responses_schema import ResponsesRequest
from server.engine.errors import EngineError
from server.engine.events import CacheReport, Usage
from server.engine.request import ToolChoice

SERVICE_TIER = "default"
_ECHOED = ("name", "description", "parameters", "strict")
_UNNAMED = "answer"

Json = dict[str, Any]


class Resource:
    """Makes the response object `id`, at any point of its life."""

    def __init__(
        self,
        id: str,
        model: str,
        asked: ResponsesRequest,
        sampling: SamplingParams,
        choice: ToolChoice,
        *,
        stored: bool,
    ) -> None:
        self.id = id
        self._fixed: Json = {
            "id": id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": False,
            "instructions": asked.instructions,
            "max_output_tokens": asked.token_limit,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": choice.parallel,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": asked.effort, "summary": asked.summary},
            "safety_identifier": asked.safety_identifier,
            "service_tier": SERVICE_TIER,
            "store": stored,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "text": _text(asked),
            "tool_choice": _choice(choice),
            "tools": list(_tools(asked.tools or ())),
            "top_logprobs": asked.top_logprobs or 0,
            "truncation": "disabled",
        }
        if asked.user is not None:
            self._fixed["user"] = asked.user

    def body(
        self,
        status: str,
        output: list[Json],
        usage: Usage | None = None,
        cache: CacheReport | None = None,
        error: EngineError | None = None,
    ) -> Json:
        """The object as it is now. `status` "incomplete" is for want of tokens."""
        short = status == "incomplete"
        body: Json = {
            **self._fixed,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None if error is None else error_json(error),
            "incomplete_details": {"reason": "max_output_tokens"} if short else None,
            "output": output,
            "usage": None if usage is None else usage_json(usage),
        }
        return body if cache is None else {**body, "x_mxserve": {"cache": cache_json(cache)}}


def usage_json(usage: Usage) -> Json:
    """Tokens. Writing to the cache costs nothing here, and is not counted."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "thinking_cut": usage.thinking_cut,
        },
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def error_json(error: EngineError) -> Json:
    """A failure of a response: one of OpenAI's codes, as clients know no others, and in `type` the
    code by which this server calls it."""
    kind, body = engine_error_body(error)
    code = "server_error" if kind.status >= 500 else "invalid_prompt"
    if kind.status == 429:
        code = "rate_limit_exceeded"
    told = body["error"]
    return {"code": code, "message": told["message"], "type": told["code"], "param": told["param"]}


def _text(asked: ResponsesRequest) -> Json:
    form = (asked.text.format if asked.text else None) or {"type": "text"}
    if form["type"] == "json_schema":  # clients take its name for granted
        form = {**form, "name": form.get("name") or _UNNAMED}
    verbosity = asked.text.verbosity if asked.text else None
    return {"format": form, "verbosity": verbosity or "medium"}


def _choice(choice: ToolChoice) -> str | Json:
    if choice.names is None:
        return choice.mode
    named: list[Json] = [{"type": "function", "name": name} for name in choice.names]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": named}


def _tools(tools: Any) -> Iterator[Json]:
    """The tools that were offered, each in the shape of this dialect; those of other types, which
    are left out, are not told back."""
    for tool in tools:
        kind = tool.get("type", "function")
        if kind == "function":
            yield _function(tool)
        elif kind == "namespace":
            description = tool.get("description") or ""
            if inner := list(_tools(tool["tools"])):
                told = {"type": kind, "name": tool["name"], "description": description}
                yield {**told, "tools": inner}


def _function(tool: Mapping[str, Any]) -> Json:
    inner = tool.get("function", tool)
    return {"type": "function", **{key: inner.get(key) for key in _ECHOED}}
