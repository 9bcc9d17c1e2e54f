"""The shapes of what Anthropic's routes answer, for the OpenAPI document. Nothing is made with
them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class MessagesError(_Shape):
    type: str
    message: str


class MessagesErrorAnswer(_Shape):
    """Every failure on these routes."""

    type: Literal["error"]
    error: MessagesError
    request_id: str | None


class MessageUsage(_Shape):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageBlock(_Shape):
    type: Literal["thinking", "text", "tool_use"]


class MessageAnswer(_Shape):
    """A message in one piece; as a stream it comes in named events."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[MessageBlock]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    stop_details: dict[str, Any] | None
    usage: MessageUsage


class TokenCount(_Shape):
    input_tokens: int
