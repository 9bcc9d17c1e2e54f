"""The fields of POST /v1/completions and their legal values."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, parse, shown
from server.api.openai_fields import OpenAIFields
from server.api.wire_shapes import PROMPT

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 1024
_PROMPT = (
    f"a string, a list of token ids, or a list of up to {MAX_PROMPTS} strings or lists of token ids"
)

WirePrompt = str | tuple[int, ...]


class CompletionRequest(OpenAIFields):
    """One request, each value within its range; None where it was left out or null."""

    prompt: Any = Field(description=_PROMPT, json_schema_extra=PROMPT)
    suffix: str | None = Field(None, description="a string")
    max_tokens: int | None = Field(
        None,
        ge=-1,
        le=MAX_INT32,
        description=f"an integer from 0 to {MAX_INT32}, or -1 for no limit",
    )
    echo: bool | None = Field(None, description=SWITCH)
    logprobs: int | None = Field(None, ge=0, le=5, description="an integer from 0 to 5")
    best_of: int | None = Field(None, ge=1, description="the same as n")

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer; None is no limit, 0 is none at all."""
        if self.max_tokens is None:
            return DEFAULT_MAX_TOKENS
        return None if self.max_tokens == -1 else self.max_tokens

    @property
    def prompts(self) -> list[WirePrompt]:
        """The prompts of a request that parse_completion() let pass."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if _is_tokens(self.prompt):
            return [tuple(self.prompt)]
        return [item if isinstance(item, str) else tuple(item) for item in self.prompt]


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """`body` as a request. Raises ApiError."""
    request = parse(CompletionRequest, body)
    _check_prompt(request.prompt)
    n = request.n or 1
    if len(request.prompts) * n > MAX_PROMPTS:
        text = f"prompts times n must be at most {MAX_PROMPTS}; got {len(request.prompts) * n}."
        raise ApiError(text, param="prompt")
    if request.best_of not in (None, n):
        raise ApiError(
            f"best_of must be left out or the same as n ({n}): answers are not ranked here.",
            param="best_of",
            code="unsupported_parameter",
        )
    if request.suffix is not None and request.echo:
        raise ApiError("echo and suffix exclude each other.", param="echo")
    return request


def _check_prompt(prompt: Any) -> None:
    if isinstance(prompt, str) or _is_tokens(prompt):
        return
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        if len(prompt) > MAX_PROMPTS:
            raise ApiError(f"prompt must be {_PROMPT}; got {shown(prompt)}.", param="prompt")
        strings = isinstance(prompt[0], str)
        for index, item in enumerate(prompt):
            if not (isinstance(item, str) if strings else _is_tokens(item)):
                where = f"prompt[{index}]"
                legal = "a string" if strings else "a non-empty list of token ids"
                raise ApiError(f"{where} must be {legal}; got {shown(item)}.", param=where)
        return
    raise ApiError(f"prompt must be {_PROMPT}; got {shown(prompt)}.", param="prompt")


def _is_tokens(value: Any) -> bool:
    """A non-empty list of ids, as far as can be told without the vocabulary."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token <= MAX_INT32 for token in value)
    )
