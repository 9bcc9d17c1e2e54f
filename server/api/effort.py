"""How much a request may think: every spelling clients use, to one answer.

Knows the wire's names for it and the budgets from the settings; not how a budget is enforced.
When several spellings come together, whichever turns thinking off wins, then the smallest budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from server.api.errors import ApiError
from server.api.fields import MAX_INT32, SWITCH, Fields
from server.api.wire_shapes import EFFORT
from server.engine.request import Thinking

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

Budgets = Mapping[str, int | None]


class Reasoning(Fields):
    """OpenAI's Responses spelling, and OpenRouter's, as some clients send it to chat too."""

    effort: Any = Field(None, json_schema_extra=EFFORT)
    enabled: bool | None = Field(None, description=SWITCH)
    max_tokens: int | None = Field(None, ge=-1, le=MAX_INT32, description="a number of tokens")


class ThinkingOption(Fields):
    """Anthropic's spelling."""

    type: Literal["enabled", "disabled", "adaptive"] | None = Field(
        None, description="one of enabled, disabled, adaptive"
    )
    budget_tokens: int | None = Field(
        None, ge=0, le=MAX_INT32, description=f"an integer from 0 to {MAX_INT32}"
    )


class TemplateOptions(Fields):
    """The only chat template variables a request may set."""

    model_config = ConfigDict(strict=True, extra="forbid")
    enable_thinking: bool | None = Field(None, description=SWITCH)
    preserve_thinking: bool | None = Field(None, description=SWITCH)


class ThinkingFields(Fields):
    """Every spelling that comes with Chat Completions."""

    reasoning_effort: Any = Field(None, json_schema_extra=EFFORT)
    reasoning: Reasoning | None = Field(None, description="an object")
    thinking: ThinkingOption | None = Field(None, description="an object")
    thinking_budget: int | None = Field(
        None, ge=-1, le=MAX_INT32, description=f"an integer from -1 (no limit) to {MAX_INT32}"
    )
    enable_thinking: bool | None = Field(None, description=SWITCH)
    chat_template_kwargs: TemplateOptions | None = Field(None, description="an object")


def thinking_of(request: ThinkingFields, budgets: Budgets) -> Thinking:
    """The request's thinking. `budgets`: tokens for each effort but none; None is no limit.

    Raises ApiError for an effort that does not exist.
    """
    limits = [
        effort_limit(request.reasoning_effort, "reasoning_effort", budgets),
        request.thinking_budget,
    ]
    switches = [request.enable_thinking]
    if request.chat_template_kwargs is not None:
        switches.append(request.chat_template_kwargs.enable_thinking)
    if request.reasoning is not None:
        limits.append(effort_limit(request.reasoning.effort, "reasoning.effort", budgets))
        limits.append(request.reasoning.max_tokens)
        switches.append(request.reasoning.enabled)
    if request.thinking is not None:
        limits.append(request.thinking.budget_tokens)
        switches.append(request.thinking.type != "disabled")
    return thinking(limits, switches)


def thinking(limits: Iterable[int | None], switches: Iterable[bool | None] = ()) -> Thinking:
    """The thinking that all `limits` (tokens; None or below 0 is none) and `switches` allow."""
    known = [limit for limit in limits if limit is not None and limit >= 0]
    budget = min(known, default=None)
    if budget == 0 or any(switch is False for switch in switches):
        return Thinking(enabled=False)
    return Thinking(enabled=True, budget=budget)


def effort_limit(effort: Any, param: str, budgets: Budgets) -> int | None:
    """The tokens that an effort named in field `param` allows; 0 is no thinking, None no limit.
    Raises ApiError."""
    if effort is None:
        return None
    if effort == "none":
        return 0
    if not isinstance(effort, str) or effort not in EFFORTS:
        legal = ", ".join(EFFORTS)
        raise ApiError(f"{param} must be one of {legal}; got {effort!r:.80}.", param=param)
    return budgets.get(effort)
