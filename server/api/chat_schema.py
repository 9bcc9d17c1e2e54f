"""The fields of POST /v1/chat/completions and their legal values.

Knows names, types and ranges. A field's description completes the sentence "X must be ...", so
that the documentation and the error message are one text. Messages and tools have their own
modules. Fields not listed are ignored, as clients send many.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from server.api.errors import ApiError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_BIASES = 1024
MAX_INT32 = 2**31 - 1
TOKEN_LIMIT = f"an integer from 1 to {MAX_INT32}, or null (or -1) for no limit"
SWITCH = "true, false or null"


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class StreamOptions(_Fields):
    include_usage: bool | None = Field(None, description=SWITCH)


class Reasoning(_Fields):
    """OpenAI's Responses spelling, and OpenRouter's, as some clients send it to chat too."""

    effort: Any = None
    enabled: bool | None = Field(None, description=SWITCH)
    max_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description="a number of tokens")


class ThinkingOption(_Fields):
    """Anthropic's spelling."""

    type: Literal["enabled", "disabled", "adaptive"] | None = Field(
        None, description="one of enabled, disabled, adaptive"
    )
    budget_tokens: int | None = Field(
        None, ge=0, le=MAX_INT32, description=f"an integer from 0 to {MAX_INT32}"
    )


class TemplateOptions(_Fields):
    """The only chat template variables a request may set."""

    model_config = ConfigDict(strict=True, extra="forbid")
    enable_thinking: bool | None = Field(None, description=SWITCH)
    preserve_thinking: bool | None = Field(None, description=SWITCH)


class ChatRequest(_Fields):
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
    seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="an integer from -2^63 to 2^63 - 1"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0 and up to 1")
    top_k: int | None = Field(
        None, ge=-1, le=MAX_INT32, description=f"an integer from -1 to {MAX_INT32} (-1, 0: off)"
    )
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, description="a number above 0 and up to 10"
    )
    logit_bias: dict[str, float] | None = Field(
        None,
        max_length=MAX_BIASES,
        description=f"an object of up to {MAX_BIASES} token ids, each with a number "
        "from -100 to 100",
    )
    logprobs: bool | None = Field(None, description=SWITCH)
    top_logprobs: int | None = Field(None, ge=0, le=20, description="an integer from 0 to 20")
    reasoning_effort: Any = None
    reasoning: Reasoning | None = Field(None, description="an object")
    thinking: ThinkingOption | None = Field(None, description="an object")
    thinking_budget: int | None = Field(
        None, ge=-1, le=MAX_INT32, description=f"an integer from -1 (no limit) to {MAX_INT32}"
    )
    enable_thinking: bool | None = Field(None, description=SWITCH)
    chat_template_kwargs: TemplateOptions | None = Field(None, description="an object")
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

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, biases: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (biases or {}).items():
            known = token.isascii() and token.isdecimal() and len(token) <= 10
            if not known or not -100 <= bias <= 100:
                raise ValueError("range")
        return biases

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
    """`body` as a request. Raises ApiError naming the field, what is legal and what was got."""
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise _explain(error, body) from None
    _refuse_unsupported(request)
    return request


def _explain(error: ValidationError, body: dict[str, Any]) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "missing":
        field = str(first["loc"][0])
        return ApiError(f"{field} is required.", param=field, code="missing_required_parameter")
    path: list[str] = []
    model: type[BaseModel] | None = ChatRequest
    legal = "a legal value"
    got: Any = body
    for step in first["loc"]:
        field = model.model_fields.get(str(step)) if model is not None else None
        if field is None:
            break
        path.append(str(step))
        got = got[step]
        legal = field.description or legal
        model = _nested(field.annotation)
    param = ".".join(path)
    if first["type"] == "extra_forbidden":
        keys = ", ".join(TemplateOptions.model_fields)
        name = f"{param}.{first['loc'][-1]}"
        return ApiError(f"{name:.200} is not supported; {param} may have: {keys}.", param=param)
    return ApiError(f"{param} must be {legal}; got {shown(got)}.", param=param)


def _nested(annotation: Any) -> type[BaseModel] | None:
    for option in getattr(annotation, "__args__", ()):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def shown(value: Any) -> str:
    """A short JSON-like form of a value, for an error message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "[]"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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
