"""The JSON text of one call's arguments, written while the model writes them.

Pure and incremental: the pieces join to what `json.dumps` makes of all arguments at once. Knows
the tools' schemas, and nothing of the form that the model writes calls in.
"""

from __future__ import annotations

import logging
from enum import Enum, auto

from .arguments import ToolSchemas, json_text

log = logging.getLogger(__name__)


class _Value(Enum):
    PASSED = auto()
    HELD = auto()
    DROPPED = auto()


class ArgumentWriter:
    """The arguments of a call to the function `name`, in the order they are written.

    A value whose schema allows nothing but a string is passed on as it comes; any other is held
    until it is complete, as its end may decide its type. A repeated argument is dropped, and
    logged: its first value may be with the client already, and each name stands once in an object.
    """

    __slots__ = ("_held", "_key", "_keys", "_name", "_out", "_schemas", "_value")

    def __init__(self, schemas: ToolSchemas, name: str) -> None:
        self._schemas = schemas
        self._name = name
        self._keys: set[str] = set()
        self._key = ""
        self._value = _Value.DROPPED
        self._held: list[str] = []
        self._out: list[str] = []

    def begin(self, key: str) -> None:
        """The argument `key` follows."""
        if key in self._keys:
            log.warning("a call to %r gave %r again; the first value stands", self._name, key)
            self._value = _Value.DROPPED
            return
        opening = f"{', ' if self._keys else '{'}{json_text(key)}: "
        self._key = key
        self._keys.add(key)
        if self._schemas.only_text(self._name, key):
            self._value = _Value.PASSED
            self._out.append(opening + '"')
        else:
            self._value = _Value.HELD
            self._held = [opening]

    def add(self, text: str) -> None:
        """The next piece of the argument's value."""
        if self._value is _Value.PASSED:
            self._out.append(json_text(text)[1:-1])
        elif self._value is _Value.HELD:
            self._held.append(text)

    def end(self) -> None:
        """The argument's value is complete."""
        if self._value is _Value.PASSED:
            self._out.append('"')
        elif self._value is _Value.HELD:
            opening, *pieces = self._held
            value = self._schemas.value_json(self._name, self._key, "".join(pieces))
            self._out.append(opening + value)
        self._value = _Value.DROPPED

    def close(self) -> None:
        """The arguments are complete."""
        self._out.append("}" if self._keys else "{}")

    def taken(self) -> str:
        """What was written since the last time, perhaps nothing."""
        text, self._out = "".join(self._out), []
        return text
