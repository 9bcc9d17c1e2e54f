"""How much a request may think: every spelling clients use, to one answer.

Knows the wire's names for it and the budgets from the settings; not how a budget is enforced.
When several spellings come together, whichever turns thinking off wins, then the smallest budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.chat_schema import ChatRequest
from server.api.errors import ApiError
from server.engine.request import Thinking

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

Budgets = Mapping[str, int | None]


def thinking_of(request: ChatRequest, budgets: Budgets) -> Thinking:
    """The request's thinking. `budgets`: tokens for each effort but none; None is no limit.

    Raises ApiError for an effort that does not exist.
    """
    limits: list[int | None] = [
        _effort(request.reasoning_effort, "reasoning_effort", budgets),
        _budget(request.thinking_budget),
    ]
    switches = [request.enable_thinking]
    if request.chat_template_kwargs is not None:
        switches.append(request.chat_template_kwargs.enable_thinking)
    if request.reasoning is not None:
        limits.append(_effort(request.reasoning.effort, "reasoning.effort", budgets))
        limits.append(_budget(request.reasoning.max_tokens))
        switches.append(request.reasoning.enabled)
    if request.thinking is not None:
        limits.append(_budget(request.thinking.budget_tokens))
        switches.append(request.thinking.type != "disabled")
    budget = min((limit for limit in limits if limit is not None), default=None)
    if budget == 0 or any(switch is False for switch in switches):
        return Thinking(enabled=False)
    return Thinking(enabled=True, budget=budget)


def _effort(effort: Any, param: str, budgets: Budgets) -> int | None:
    """Tokens; 0 is no thinking, None no limit."""
    if effort is None:
        return None
    if effort == "none":
        return 0
    if not isinstance(effort, str) or effort not in EFFORTS:
        legal = ", ".join(EFFORTS)
        raise ApiError(f"{param} must be one of {legal}; got {effort!r:.80}.", param=param)
    return budgets.get(effort)


def _budget(tokens: int | None) -> int | None:
    return None if tokens is None or tokens < 0 else tokens
