"""Wire tool_choice and parallel_tool_calls -> which of the offered tools may be called.

Knows the shapes of Chat Completions and of Responses (function names nested or flat, allowed_tools
nested or flat); how a choice is enforced is the engine's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from server.api.errors import ApiError
from server.api.fields import shown
from server.engine.request import ToolChoice

log = logging.getLogger(__name__)

PARAM = "tool_choice"
LEGAL = (
    '"none", "auto", "required", {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [...]}}'
)
MAX_ALLOWED = 512


def tool_choice_of(
    choice: Any, parallel: bool | None, offered: Collection[str], param: str = PARAM
) -> ToolChoice:
    """`choice` among the tools named `offered`. Raises ApiError, naming a tool not offered."""
    many = parallel is not False
    if choice is None or choice == "auto":
        return ToolChoice("auto", None, many)
    if choice == "none":
        return ToolChoice("none", None, many)
    if choice in ("required", "any"):
        return _required(None, many, offered, param)
    if isinstance(choice, Mapping):
        if choice.get("type", "function") == "function":
            name = _function_name(choice)
            if isinstance(name, str):
                return _required((name,), many, offered, param)
        if choice.get("type") == "allowed_tools":
            return _allowed(choice, many, offered, param)
    raise ApiError(f"{param} must be {LEGAL}; got {shown(choice)}.", param=param)


def _required(
    names: tuple[str, ...] | None, many: bool, offered: Collection[str], param: str
) -> ToolChoice:
    for name in names or ():
        if name not in offered:
            text = f"{param} names a tool that is not in tools: {name:.200}."
            raise ApiError(text, param=param)
    if not offered:
        raise ApiError(f"{param} asks for a call, but there is no function in tools.", param=param)
    return ToolChoice("required", names, many)


def _allowed(choice: Any, many: bool, offered: Collection[str], param: str) -> ToolChoice:
    inner = choice.get("allowed_tools", choice)
    mode, tools = (None, None)
    if isinstance(inner, Mapping):
        mode, tools = inner.get("mode", "auto"), inner.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list) or len(tools) > MAX_ALLOWED:
        text = f'{param} must have a "mode" (auto or required) and a list of up to {MAX_ALLOWED} '
        raise ApiError(f'{text}"tools".', param=param)
    names = tuple(dict.fromkeys(_allowed_names(tools, param)))
    if names:
        allowed = _required(names, many, offered, param)
        return allowed if mode == "required" else ToolChoice("auto", names, many)
    if mode == "required":
        raise ApiError(f"{param} asks for a call, but allows no function.", param=param)
    return ToolChoice("none", None, many)


def _allowed_names(tools: list[Any], param: str) -> Iterator[str]:
    for tool in tools:
        name = _function_name(tool)
        if isinstance(tool, Mapping) and tool.get("type", "function") != "function":
            log.warning("left out an allowed tool of type %r", str(tool["type"])[:80])
        elif not isinstance(name, str):
            raise ApiError(f"{param} has a tool without a name: {shown(tool)}.", param=param)
        else:
            yield name


def _function_name(tool: Any) -> Any:
    """The name in either shape; None where there is none."""
    if not isinstance(tool, Mapping):
        return None
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None
