"""The shapes of what this server answers, for the OpenAPI document. Nothing is made with them.

Objects may have further fields; those listed as required are always there.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class Error(_Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(_Shape):
    """Every failure, on the routes of OpenAI's dialects."""

    error: Error


class Usage(_Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class CalledFunction(_Shape):
    name: str
    arguments: str


class ToolCall(_Shape):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(_Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Any]
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: CalledFunction | None = None


class TopLogprob(_Shape):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Shape):
    content: list[TokenLogprob]
    refusal: None


class ChatChoice(_Shape):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class ChatAnswer(_Shape):
    """A chat completion in one piece; as a stream it comes in chat.completion.chunk objects."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(_Shape):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(_Shape):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class TextAnswer(_Shape):
    """A text completion; as a stream it comes in objects of the same kind."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class TokenPiece(_Shape):
    id: int
    piece: str


class TokenizeAnswer(_Shape):
    tokens: list[int] | list[TokenPiece]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class DetokenizeAnswer(_Shape):
    prompt: str
    content: str


class TemplateAnswer(_Shape):
    prompt: str


class ModelCard(_Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    max_model_len: int
    type: Literal["model"]
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int
    lifecycle: Literal["active"]


class ModelList(_Shape):
    object: Literal["list"]
    data: list[ModelCard]
    has_more: bool
    first_id: str
    last_id: str


class HealthAnswer(_Shape):
    status: Literal["ok", "loading", "draining", "dead"]


class AliveAnswer(_Shape):
    status: Literal["alive"]
