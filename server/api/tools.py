"""Wire tools -> the functions offered to the model, for every OpenAI dialect.

Knows Chat Completions' nested shape and Responses' flat one, either anywhere. A namespace's tools
are offered as functions of their own, named `namespace.tool`. Other types are left out, as clients
offer tools that only the vendor's own service has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.api.errors import ApiError
from server.api.fields import shown

log = logging.getLogger(__name__)

MAX_TOOLS = 512
MAX_NAME = 128
_NAME = re.compile(rf"[\w.:/-]{{1,{MAX_NAME}}}")
_NAME_RULE = f"1 to {MAX_NAME} letters, digits or _ . : / -"
_FLAT_KEYS = ("name", "description", "parameters", "strict")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Offered:
    """functions: {"type": "function", "function": {...}} each, in the client's order and with its
    key order; None where there are none. namespaces: for a function that came in a namespace, its
    offered name -> (namespace, its name there). places: where the request has each of them."""

    functions: list[Json] | None
    namespaces: Mapping[str, tuple[str, str]]
    places: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool["function"]["name"] for tool in self.functions or ())


def offered_tools(tools: list[Any] | None, param: str = "tools") -> Offered:
    """The functions among `tools`. Raises ApiError naming the tool and field at fault, also where
    two functions that differ have one name."""
    functions: dict[str, Json] = {}
    namespaces: dict[str, tuple[str, str]] = {}
    places: dict[str, str] = {}
    count = 0
    for where, namespace, tool in _flattened(tools or [], param):
        count += 1
        if count > MAX_TOOLS or len(tools or ()) > MAX_TOOLS:
            got = max(count, len(tools or ()))
            raise ApiError(f"{param} must be a list of up to {MAX_TOOLS}; got {got}.", param=param)
        function = _function(tool, where)
        if function is None:
            continue
        name = function["name"]
        if namespace is not None:
            name = f"{namespace}.{name}"
            namespaces[name] = (namespace, function["name"])
            function = {**function, "name": name}
        if functions.get(name, function) != function:
            raise ApiError(f"{where} has the name of another tool: {name}.", param=where)
        functions[name] = function
        places.setdefault(name, where if _flat(tool) else f"{where}.function")
    offered = [{"type": "function", "function": function} for function in functions.values()]
    return Offered(offered or None, namespaces, tuple(places.values()))


def _flattened(tools: list[Any], param: str) -> Iterator[tuple[str, str | None, Any]]:
    """Each tool with its place and, where it has one, its namespace."""
    for index, tool in enumerate(tools):
        where = f"{param}[{index}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "namespace":
            yield where, None, tool
            continue
        inner = tool.get("tools")
        if not isinstance(inner, list):
            raise ApiError(f"{where}.tools must be a list of tools.", param=f"{where}.tools")
        namespace = _name(tool.get("name"), f"{where}.name") if inner else None
        for place, item in enumerate(inner):
            yield f"{where}.tools[{place}]", namespace, item


def _function(tool: Any, where: str) -> Json | None:
    """What is inside of {"type": "function", ...}; None for a tool that is not a function."""
    if not isinstance(tool, Mapping):
        raise ApiError(f"{where} must be an object; got {shown(tool)}.", param=where)
    kind = tool.get("type", "function")
    if kind != "function":
        log.warning("left out a tool of type %r", str(kind)[:80])
        return None
    if _flat(tool):
        function = {key: value for key, value in tool.items() if key in _FLAT_KEYS}
    else:
        function, where = tool.get("function"), f"{where}.function"
    if not isinstance(function, Mapping):
        raise ApiError(f"{where} must be an object; got {shown(function)}.", param=where)
    _name(function.get("name"), f"{where}.name")
    for key, kinds, legal in (
        ("parameters", Mapping, "an object"),
        ("description", str, "a string"),
        ("strict", bool, "true, false or null"),
    ):
        value = function.get(key)
        if value is not None and not isinstance(value, kinds):
            place = f"{where}.{key}"
            raise ApiError(f"{place} must be {legal}; got {shown(value)}.", param=place)
    return dict(function)


def _flat(tool: Mapping[str, Any]) -> bool:
    return "function" not in tool and "name" in tool


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ApiError(f"{where} must be {_NAME_RULE}; got {shown(name)}.", param=where)
    return name
