"""The fields of POST /v1/chat/completions and their legal values.

Messages, tools and grammars have their own modules.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from server.api.effort import ThinkingFields
from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, TOKEN_LIMIT, parse
from server.api.openai_fields import OpenAIFields
from server.api.wire_shapes import FUNCTION, FUNCTION_CALL, MESSAGE, TOOL, TOOL_CHOICE

MAX_MESSAGES = 10_000


def _items(item: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    """The schema of a list of such items, or null."""
    items: dict[str, Any] = {"type": "array", "items": item}
    if most is not None:
        items["maxItems"] = most
    return {"anyOf": [items, {"type": "null"}]}


class ChatRequest(OpenAIFields, ThinkingFields):
    """One request, each value within its range; None where it was left out or null."""

    messages: list[Any] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description=f"a non-empty list of up to {MAX_MESSAGES} messages",
        json_schema_extra={"items": MESSAGE},
    )
    max_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description=TOKEN_LIMIT)
    max_completion_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description=TOKEN_LIMIT)
    logprobs: bool | None = Field(None, description=SWITCH)
    top_logprobs: int | None = Field(None, ge=0, le=20, description="an integer from 0 to 20")
    tools: list[Any] | None = Field(
        None, description="a list of tools", json_schema_extra=_items(TOOL)
    )
    tool_choice: Any = Field(None, json_schema_extra=TOOL_CHOICE)
    parallel_tool_calls: bool | None = Field(None, description=SWITCH)
    functions: list[Any] | None = Field(
        None, description="a list of functions", json_schema_extra=_items(FUNCTION)
    )
    function_call: Any = Field(None, json_schema_extra=FUNCTION_CALL)
    modalities: list[Any] | None = Field(
        None, description='["text"]', json_schema_extra=_items({"const": "text"}, most=1)
    )
    continue_final_message: bool | None = Field(None, description=SWITCH)
    add_generation_prompt: bool | None = Field(None, description=SWITCH)
    echo: bool | None = Field(None, description=SWITCH)
    chat_template: None = Field(None, description="left out: the checkpoint's own is used")

    @field_validator("max_tokens", "max_completion_tokens")
    @classmethod
    def _at_least_one(cls, tokens: int | None) -> int | None:
        if tokens == 0:
            raise ValueError("zero")
        return tokens

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

    @property
    def logprob_count(self) -> int | None:
        """How many likely tokens to tell beside the chosen one; None for no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """`body` as a request. Raises ApiError."""
    request = parse(ChatRequest, body)
    if request.top_logprobs and not request.logprobs:
        raise ApiError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    _check_continuation(request)
    return request


def _check_continuation(request: ChatRequest) -> None:
    """add_generation_prompt says the opposite of continue_final_message, and nothing else."""
    if request.continue_final_message:
        if request.add_generation_prompt:
            text = "continue_final_message and add_generation_prompt exclude each other."
            raise ApiError(text, param="add_generation_prompt")
        return
    if request.add_generation_prompt is False:
        text = "add_generation_prompt can be false only with continue_final_message true."
        raise ApiError(text, param="add_generation_prompt")
    if request.echo:
        raise ApiError("echo needs continue_final_message to be true.", param="echo")
