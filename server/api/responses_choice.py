"""tool_choice where functions may be in namespaces.

Knows under which name such a function is offered; what a choice means is known elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.tools import Offered


def with_offered_names(choice: Any, offered: Offered) -> Any:
    """`choice` with functions named as they are offered: one of a namespace may be chosen by
    `namespace` and `name`, or by its own name where no other function has it."""
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("tools"), list):
        return {**choice, "tools": [with_offered_names(tool, offered) for tool in choice["tools"]]}
    name = choice.get("name")
    if choice.get("type") != "function" or not isinstance(name, str):
        return choice
    namespace = choice.get("namespace")
    if isinstance(namespace, str) and namespace:
        return {**choice, "name": f"{namespace}.{name}"}
    if name in offered.names:
        return choice
    inner = [full for full, (_, own) in offered.namespaces.items() if own == name]
    return {**choice, "name": inner[0]} if len(inner) == 1 else choice
