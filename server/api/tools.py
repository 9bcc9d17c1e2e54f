"""Wire tools and tool_choice -> the tools the template shows, or a clear refusal.

Knows OpenAI's shapes. Tool types that are not functions are left out, as clients offer tools that
only the vendor's own service has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from server.api.errors import ApiError

log = logging.getLogger(__name__)

MAX_TOOLS = 512
_NAME = re.compile(r"[\w.:/-]{1,128}")


def offered_tools(tools: list[Any] | None, choice: Any) -> list[dict[str, Any]] | None:
    """The functions offered to the model, or None. Raises ApiError."""
    if tools is not None and len(tools) > MAX_TOOLS:
        raise ApiError(
            f"tools must be a list of up to {MAX_TOOLS}; got {len(tools)}.", param="tools"
        )
    functions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools or [])]
    offered = [function for function in functions if function is not None]
    if choice == "none":
        return None
    if choice not in (None, "auto"):
        raise ApiError(
            'Only tool_choice "auto" and "none" are available on this server.',
            param="tool_choice",
            code="unsupported_parameter",
        )
    return offered or None


def _function(tool: Any, where: str) -> dict[str, Any] | None:
    if not isinstance(tool, Mapping):
        raise ApiError(f"{where} must be an object.", param=where)
    kind = tool.get("type", "function")
    if kind != "function":
        log.warning("left out a tool of type %r", str(kind)[:80])
        return None
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise ApiError(f"{where}.function must be an object.", param=f"{where}.function")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ApiError(
            f"{where}.function.name must be 1 to 128 letters, digits or _ . : / -; "
            f"got {name!r:.80}.",
            param=f"{where}.function.name",
        )
    for key, legal in (("parameters", Mapping), ("description", str)):
        if function.get(key) is not None and not isinstance(function[key], legal):
            kind = "an object" if legal is Mapping else "a string"
            raise ApiError(
                f"{where}.function.{key} must be {kind}.", param=f"{where}.function.{key}"
            )
    return {"type": "function", "function": dict(function)}
