"""One tool call in the model's XML-like form, read incrementally.

    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>

Knows this grammar only; a value may hold any text, this very grammar included, and ends at the
first `</parameter>` that is followed by another parameter or by the end of the call.
"""

from __future__ import annotations

import re
from enum import Enum, auto

_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_FUNCTION_END, _CALL_END = "</function>", "</tool_call>"
_ELEMENTS = (_PARAMETER, _FUNCTION_END, _CALL_END)
_NEXT = re.compile("|".join(map(re.escape, _ELEMENTS)))
_OPEN_END = re.compile(r"</function>\s*</tool_call>\s*\Z")
_LOOK_AHEAD = 48
_MAX_KEY = 1024


class _Place(Enum):
    BETWEEN = auto()
    KEY = auto()
    VALUE = auto()
    END = auto()


class ToolCallReader:
    """Reads what follows `<function=NAME>` up to and with `</function>`. Each piece of text is
    looked at a bounded number of times, however it is cut."""

    __slots__ = ("_key", "_pending", "_place", "_value", "arguments")

    def __init__(self) -> None:
        self.arguments: dict[str, str] = {}
        self._pending = ""
        self._place = _Place.BETWEEN
        self._key = ""
        self._value: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether the end of the call was read: only then are the arguments the model's."""
        return self._place is _Place.END

    def feed(self, text: str) -> str:
        """Reads on; returns the text that follows the call once it is complete, else nothing."""
        self._pending += text
        at = 0
        while (after := self._step(at)) is not None:
            at = after
        rest = self._pending[at:]
        self._pending = "" if self.complete else rest
        return rest if self.complete else ""

    def close(self) -> None:
        """Ends the text: a call whose own end the model wrote is complete, though its last
        parameter was left open."""
        if self._place is not _Place.VALUE:
            return
        value = "".join(self._value) + self._pending
        if closing := _OPEN_END.search(value[-_LOOK_AHEAD:]):
            length = len(value[-_LOOK_AHEAD:]) - closing.start()
            self._store(value[:-length])
            self._place = _Place.END

    def _step(self, at: int) -> int | None:
        """Reads one element from position `at`: the position after it, None to wait for more."""
        match self._place:
            case _Place.BETWEEN:
                return self._between(at)
            case _Place.KEY:
                return self._read_key(at)
            case _Place.VALUE:
                return self._read_value(at)
            case _Place.END:
                return None

    def _between(self, at: int) -> int | None:
        found = _NEXT.search(self._pending, at)
        if found is None:
            # Stray text between elements is dropped, but for what may begin one.
            last = self._pending.rfind("<", at)
            tail = self._pending[last:] if last >= 0 else ""
            keep = len(tail) if any(tag.startswith(tail) for tag in _ELEMENTS) else 0
            to = len(self._pending) - keep
            return to if to > at else None
        self._place = _Place.KEY if found.group() == _PARAMETER else _Place.END
        # The end of the enclosing block is the caller's; it also ends a call that was left open.
        return found.start() if found.group() == _CALL_END else found.end()

    def _read_key(self, at: int) -> int | None:
        end = self._pending.find(">", at, at + _MAX_KEY)
        if end < 0:
            if len(self._pending) < at + _MAX_KEY:
                return None
            self._place = _Place.BETWEEN
            return at + _MAX_KEY
        self._key = self._pending[at:end].strip()
        self._place = _Place.VALUE
        return end + 1

    def _read_value(self, at: int) -> int | None:
        end = self._pending.find(_PARAMETER_END, at)
        if end < 0:
            # All but a possible beginning of the end tag is certain.
            certain = max(at, len(self._pending) - len(_PARAMETER_END) + 1)
            return self._take(at, certain)
        after = end + len(_PARAMETER_END)
        following = self._pending[after : after + _LOOK_AHEAD].lstrip()
        if following.startswith(_ELEMENTS):
            self._store("".join(self._value) + self._pending[at:end])
            self._place = _Place.BETWEEN
            return after
        undecided = any(tag.startswith(following) for tag in _ELEMENTS)
        if undecided and len(self._pending) < after + _LOOK_AHEAD:
            return self._take(at, end)
        return self._take(at, after)

    def _store(self, value: str) -> None:
        self.arguments[self._key] = value.removeprefix("\n").removesuffix("\n")
        self._value.clear()

    def _take(self, at: int, to: int) -> int | None:
        if to == at:
            return None
        self._value.append(self._pending[at:to])
        return to
