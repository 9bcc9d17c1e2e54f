"""Anthropic's tools and tool_choice -> the functions offered, and which of them may be called.

Knows their shapes; what a name may be, and how a choice is enforced, is known elsewhere. Tools that
only the vendor's service has, or knows without a schema, are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from server.api.errors import ApiError
from server.api.fields import SWITCH, shown
from server.api.tool_choice import tool_choice_of
from server.api.tools import Offered, offered_tools
from server.engine.request import ToolChoice

# Everything else of a tool (cache_control, examples) is no part of the prompt.
_KEYS = {
    "name": "name",
    "description": "description",
    "input_schema": "parameters",
    "strict": "strict",
}
_CHOICES = ("auto", "any", "tool", "none")


def offered(tools: list[Any] | None) -> Offered:
    """The custom tools among `tools`. Raises ApiError naming the tool and field at fault."""
    converted = [_converted(tool, f"tools[{index}]") for index, tool in enumerate(tools or ())]
    return offered_tools(converted)


def _converted(tool: Any, where: str) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    if tool.get("type") not in (None, "custom"):
        return {"type": tool["type"]}
    schema, place = tool.get("input_schema"), f"{where}.input_schema"
    if schema is None:
        raise ApiError(f"{place} is required.", param=place, code="missing_required_parameter")
    if not isinstance(schema, Mapping):
        raise ApiError(f"{place} must be an object; got {shown(schema)}.", param=place)
    kept = {_KEYS[key]: value for key, value in tool.items() if key in _KEYS}
    return {"name": None, **kept}


def choice_of(choice: Any, names: Collection[str]) -> ToolChoice:
    """`choice` among the tools called `names`. Raises ApiError."""
    if choice is None:
        return ToolChoice()
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or kind not in _CHOICES:
        legal = f"an object with a type, one of {', '.join(_CHOICES)}"
        text = f"tool_choice must be {legal}; got {shown(choice if kind is None else kind)}."
        raise ApiError(text, param="tool_choice")
    single = choice.get("disable_parallel_tool_use")
    if single is not None and not isinstance(single, bool):
        place = "tool_choice.disable_parallel_tool_use"
        raise ApiError(f"{place} must be {SWITCH}; got {shown(single)}.", param=place)
    if kind == "tool":
        name, place = choice.get("name"), "tool_choice.name"
        if not isinstance(name, str):
            raise ApiError(f"{place} must be a string; got {shown(name)}.", param=place)
        return tool_choice_of({"type": "function", "name": name}, not single, names)
    return tool_choice_of("required" if kind == "any" else kind, not single, names)
