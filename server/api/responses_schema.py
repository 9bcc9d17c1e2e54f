"""The fields of POST /v1/responses and their legal values.

Items, tools and formats have their own modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from server.api.effort import Reasoning, ThinkingFields
from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, TOKEN_LIMIT, Fields, parse, shown
from server.api.openai_fields import MAX_STRING
from server.api.response_format import FORMATS, GrammarFields, grammar_of, json_schema_format
from server.api.responses_shapes import CHOICE, FORMAT, INPUT, TOOLS
from server.api.sampling_fields import SamplingFields
from server.engine.request import GrammarSpec

MAX_PAIRS = 16
MAX_KEY = 64
MAX_VALUE = 512
ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
SUMMARIES = ("auto", "concise", "detailed")

_STRING = f"a string of up to {MAX_STRING} characters"
_COUNT = f"an integer from 1 to {MAX_INT32}"
_SUMMARY = f"one of {', '.join(SUMMARIES)}"
_REFUSED = {
    "background": "Responses are not written in the background here; send it without background.",
    "conversation": "There are no conversations here; use previous_response_id.",
    "prompt": "There are no stored prompts here; send instructions and input.",
}


class ResponseReasoning(Reasoning):
    summary: Literal["auto", "concise", "detailed"] | None = Field(None, description=_SUMMARY)
    generate_summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description=_SUMMARY
    )


class Text(Fields):
    format: Any = Field(None, json_schema_extra=FORMAT)
    verbosity: Literal["low", "medium", "high"] | None = Field(
        None, description="one of low, medium, high"
    )


class ResponsesRequest(SamplingFields, GrammarFields, ThinkingFields):
    """One request, each value within its range; None where it was left out or null."""

    model: str | None = Field(None, max_length=MAX_STRING, description=_STRING)
    input: Any = Field(None, json_schema_extra=INPUT)
    instructions: str | None = Field(None, description="a string")
    previous_response_id: str | None = Field(None, max_length=MAX_STRING, description=_STRING)
    store: bool | None = Field(None, description=SWITCH)
    stream: bool | None = Field(None, description=SWITCH)
    include: list[str] | None = Field(None, max_length=64, description="a list of up to 64 strings")
    tools: list[Any] | None = Field(None, description="a list of tools", json_schema_extra=TOOLS)
    tool_choice: Any = Field(None, json_schema_extra=CHOICE)
    parallel_tool_calls: bool | None = Field(None, description=SWITCH)
    max_tool_calls: int | None = Field(None, ge=1, le=MAX_INT32, description=_COUNT)
    max_output_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description=TOKEN_LIMIT)
    text: Text | None = Field(None, description="an object")
    reasoning: ResponseReasoning | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, description="an object"
    )
    top_logprobs: int | None = Field(None, ge=0, le=20, description="an integer from 0 to 20")
    metadata: dict[str, str] | None = Field(
        None,
        max_length=MAX_PAIRS,
        description=f"an object of up to {MAX_PAIRS} strings: keys of up to {MAX_KEY} characters, "
        f"values of up to {MAX_VALUE}",
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="one of auto, disabled"
    )
    user: str | None = Field(None, max_length=MAX_STRING, description=_STRING)
    safety_identifier: str | None = Field(None, max_length=MAX_STRING, description=_STRING)
    prompt_cache_key: str | None = Field(None, max_length=MAX_STRING, description=_STRING)
    service_tier: str | None = Field(None, max_length=MAX_STRING, description=_STRING)
    background: bool | None = Field(None, description=SWITCH)
    conversation: Any = None
    prompt: Any = None

    @field_validator("max_output_tokens")
    @classmethod
    def _at_least_one(cls, tokens: int | None) -> int | None:
        if tokens == 0:
            raise ValueError("zero")
        return tokens

    @field_validator("metadata")
    @classmethod
    def _short(cls, pairs: dict[str, str] | None) -> dict[str, str] | None:
        if any(len(key) > MAX_KEY or len(text) > MAX_VALUE for key, text in (pairs or {}).items()):
            raise ValueError("length")
        return pairs

    @property
    def token_limit(self) -> int | None:
        """None is no limit."""
        return None if self.max_output_tokens == -1 else self.max_output_tokens

    @property
    def logprob_count(self) -> int | None:
        """How many likely tokens to tell beside the chosen one; None for no log probabilities."""
        asked = LOGPROBS in (self.include or ()) or self.top_logprobs
        return (self.top_logprobs or 0) if asked else None

    @property
    def encrypted(self) -> bool:
        return ENCRYPTED in (self.include or ())

    @property
    def summary(self) -> str | None:
        """The kind of summary asked for."""
        reasoning = self.reasoning
        return (reasoning.summary or reasoning.generate_summary) if reasoning else None

    @property
    def effort(self) -> Any:
        """The effort as it was given, if it was."""
        given = self.reasoning.effort if self.reasoning else None
        return self.reasoning_effort if given is None else given

    def any_grammar(self) -> GrammarSpec | None:
        """What the answer has to match. Raises ApiError."""
        found = [*_format(self.text.format if self.text else None)]
        if (other := grammar_of(self)) is not None:
            found.append(other)
        if len(found) > 1:
            given = " and ".join(spec.param for spec in found)
            text = f"An answer can follow one grammar only; got {given}."
            raise ApiError(text, param=found[1].param)
        return found[0] if found else None


def parse_responses(body: dict[str, Any]) -> ResponsesRequest:
    """`body` as a request. Raises ApiError, also for what would change the answer and is not done
    here."""
    request = parse(ResponsesRequest, body)
    for name, text in _REFUSED.items():
        if getattr(request, name) not in (None, False):
            raise ApiError(text, param=name, code="unsupported_parameter")
    return request


def _format(form: Any) -> Iterator[GrammarSpec]:
    param = "text.format"
    if form is None:
        return
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in FORMATS:
        got = shown(form) if kind is None else shown(kind)
        text = f"{param}.type must be one of {', '.join(FORMATS)}; got {got}."
        raise ApiError(text, param=f"{param}.type")
    if kind == "json_object":
        yield GrammarSpec("json_object", None, param)
    elif kind == "json_schema":
        yield json_schema_format(form, param)
