"""The fields of POST /v1/messages and /v1/messages/count_tokens, and their legal values.

Messages, tools and content blocks have their own modules. Fields that change nothing here
(cache_control, service_tier, context_management, betas and so on) are not listed, and ignored.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, field_validator

from server.api.anthropic_shapes import EFFORT, FORMAT, MESSAGE, SYSTEM, TOOL_CHOICE, TOOLS
from server.api.effort import Budgets, effort_limit, thinking
from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, Fields, shown
from server.api.sampling_fields import SamplingFields
from server.engine.request import GrammarSpec, Thinking

MAX_MESSAGES = 100_000
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
_KINDS = ("enabled", "disabled", "adaptive", "between_tools")
_DISPLAYS = ("summarized", "omitted")


class ThinkingConfig(Fields):
    """between_tools: in answers to results of tools only."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"] = Field(
        description=f"one of {', '.join(_KINDS)}"
    )
    budget_tokens: int | None = Field(
        None, ge=0, le=MAX_INT32, description=f"an integer from 0 to {MAX_INT32}"
    )
    display: Literal["summarized", "omitted"] | None = Field(
        None, description=f"one of {', '.join(_DISPLAYS)}"
    )


class OutputConfig(Fields):
    effort: Any = Field(None, json_schema_extra=EFFORT)
    format: Any = Field(None, json_schema_extra=FORMAT)


class Metadata(Fields):
    user_id: str | None = Field(None, max_length=4096, description="a string")


class PromptFields(Fields):
    """What both routes have: all that makes the prompt."""

    model: str | None = Field(None, max_length=1024, description="a string")
    messages: list[Any] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description=f"a list of 1 to {MAX_MESSAGES} messages",
        json_schema_extra={"items": MESSAGE},
    )
    system: Any = Field(None, json_schema_extra=SYSTEM)
    tools: list[Any] | None = Field(None, description="a list of tools", json_schema_extra=TOOLS)
    tool_choice: Any = Field(None, json_schema_extra=TOOL_CHOICE)
    thinking: ThinkingConfig | None = Field(None, description="an object")
    output_config: OutputConfig | None = Field(None, description="an object")
    output_format: Any = Field(None, json_schema_extra=FORMAT)

    def thinking_for(self, budgets: Budgets, *, after_tools: bool) -> Thinking:
        """No thinking unless it is asked for. after_tools: the last message has tool results.
        Raises ApiError for an effort that does not exist."""
        effort = self.output_config.effort if self.output_config else None
        limit = effort_limit(effort, "output_config.effort", budgets)
        config = self.thinking
        if config is None or config.type == "disabled":
            return Thinking(enabled=False)
        if config.type == "between_tools" and not after_tools:
            return Thinking(enabled=False)
        return thinking([limit, config.budget_tokens])

    @property
    def shows_thought(self) -> bool:
        return self.thinking is None or self.thinking.display != "omitted"

    def grammar(self) -> GrammarSpec | None:
        """The schema that the answer has to match, in either place. Raises ApiError."""
        inner = self.output_config.format if self.output_config else None
        param, form = "output_config.format", inner
        if form is None:
            param, form = "output_format", self.output_format
        if form is None:
            return None
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            got = shown(form.get("type") if isinstance(form, dict) else form)
            raise ApiError(f'{param}.type must be "json_schema"; got {got}.', param=param)
        place, schema = f"{param}.schema", form.get("schema")
        if not isinstance(schema, dict):
            raise ApiError(f"{place} must be an object; got {shown(schema)}.", param=place)
        return GrammarSpec("json_schema", schema, place)


class MessagesRequest(PromptFields, SamplingFields):
    """One request, each value within its range; None where it was left out or null."""

    max_tokens: int = Field(ge=0, le=MAX_INT32, description=f"an integer from 0 to {MAX_INT32}")
    stream: bool | None = Field(None, description=SWITCH)
    stop_sequences: list[str] | None = Field(
        None,
        max_length=MAX_STOPS,
        description=f"a list of up to {MAX_STOPS} strings, "
        f"each of 1 to {MAX_STOP_CHARACTERS} characters",
    )
    metadata: Metadata | None = Field(None, description="an object")

    @field_validator("stop_sequences")
    @classmethod
    def _stops(cls, stops: list[str] | None) -> list[str] | None:
        if any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops or ()):
            raise ValueError("length")
        return stops

    @property
    def session(self) -> str | None:
        """The session named in metadata.user_id: a JSON object's session_id (Claude Code has it
        so), else the whole text."""
        user = self.metadata.user_id if self.metadata else None
        if not user or not user.startswith("{"):
            return user or None
        try:
            session = json.loads(user).get("session_id")
        except (ValueError, RecursionError):
            return user
        return session if isinstance(session, str) and session else user
