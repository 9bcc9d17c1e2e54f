"""The fields of POST /v1/chat/completions and their legal values.

Messages and tools have their own modules.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from server.api.effort import ThinkingFields
from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, TOKEN_LIMIT, Fields, parse
from server.api.sampling_fields import SamplingFields

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024


class StreamOptions(Fields):
    include_usage: bool | None = Field(None, description=SWITCH)


class ChatRequest(SamplingFields, ThinkingFields):
    """One request, each value within its range; None where it was left out or null."""

    model: str | None = Field(None, max_length=1024, description="a string")
    messages: list[Any] = Field(min_length=1, description="a non-empty list of messages")
    stream: bool | None = Field(None, description=SWITCH)
    stream_options: StreamOptions | None = Field(None, description="an object")
    max_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description=TOKEN_LIMIT)
    max_completion_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description=TOKEN_LIMIT)
    n: int | None = Field(None, ge=1, le=8, description="an integer from 1 to 8")
    stop: str | list[str] | None = Field(
        None,
        description=f"a string or a list of up to {MAX_STOPS} strings, "
        f"each of 1 to {MAX_STOP_CHARACTERS} characters",
    )
    logprobs: bool | None = Field(None, description=SWITCH)
    top_logprobs: int | None = Field(None, ge=0, le=20, description="an integer from 0 to 20")
    tools: list[Any] | None = Field(None, description="a list of tools")
    tool_choice: Any = None
    functions: Any = None
    response_format: Any = None
    modalities: list[Any] | None = Field(None, description='["text"]')
    prompt_cache_key: str | None = Field(None, max_length=1024, description="a string")

    @field_validator("max_tokens", "max_completion_tokens")
    @classmethod
    def _at_least_one(cls, tokens: int | None) -> int | None:
        if tokens == 0:
            raise ValueError("zero")
        return tokens

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: str | list[str] | None) -> list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop
        if stops is not None and (
            len(stops) > MAX_STOPS or any(not 1 <= len(s) <= MAX_STOP_CHARACTERS for s in stops)
        ):
            raise ValueError("length")
        return stops

    @field_validator("modalities")
    @classmethod
    def _text_only(cls, modalities: list[Any] | None) -> list[Any] | None:
        if modalities and modalities != ["text"]:
            raise ValueError("modality")
        return modalities

    @property
    def token_limit(self) -> int | None:
        """max_completion_tokens where given, else max_tokens; None is no limit."""
        given = self.max_completion_tokens
        tokens = self.max_tokens if given is None else given
        return None if tokens == -1 else tokens


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """`body` as a request. Raises ApiError."""
    request = parse(ChatRequest, body)
    _refuse_unsupported(request)
    return request


def _refuse_unsupported(request: ChatRequest) -> None:
    """What would otherwise be silently wrong is a clear error."""
    if request.logprobs:
        raise _unsupported("logprobs", "Log probabilities are not available on this server.")
    if request.top_logprobs:
        raise _unsupported("top_logprobs", "Log probabilities are not available on this server.")
    form = request.response_format
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise _unsupported("response_format", 'Only response_format {"type": "text"} is available.')
    if request.functions:
        raise _unsupported("functions", "functions is not supported; use tools.")


def _unsupported(param: str, message: str) -> ApiError:
    return ApiError(message, param=param, code="unsupported_parameter")
