"""One tool call in the model's XML-like form, read incrementally.

    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>

Knows this grammar only, nothing of what values mean; a value may hold any text, this very grammar
included, and ends at the first `</parameter>` that is followed by another parameter or by the end
of the call.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import reduce
from typing import Protocol

_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_FUNCTION_END, _CALL_END = "</function>", "</tool_call>"
_ELEMENTS = (_PARAMETER, _FUNCTION_END, _CALL_END)
_NEXT = re.compile("|".join(map(re.escape, _ELEMENTS)))
_MAX_KEY = 1024


def _beginning(tag: str) -> str:
    """A pattern of every beginning of `tag` that is not empty, itself included."""
    inner = reduce(lambda rest, character: f"(?:{re.escape(character)}{rest})?", reversed(tag), "")
    return inner.removesuffix("?")


# Blanks are bounded, so that no more than _MOST_HELD characters are ever undecided.
_BLANKS = r"\s{0,32}"
_VALUE_END = re.compile(rf"\n?{_PARAMETER_END}(?={_BLANKS}(?:{'|'.join(_ELEMENTS)}))")
# A model that leaves its last parameter open, and ends the call: known only when the text ends.
_OPEN_END = re.compile(rf"\n?{_FUNCTION_END}\s{{0,16}}{_CALL_END}\s{{0,16}}")
_UNDECIDED = re.compile(
    rf"(?:{_beginning(_PARAMETER_END)}"
    rf"|{_PARAMETER_END}{_BLANKS}(?:{'|'.join(map(_beginning, _ELEMENTS))})?"
    rf"|{_beginning(_FUNCTION_END)}"
    rf"|{_FUNCTION_END}\s{{0,16}}(?:{_CALL_END}\s{{0,16}}|{_beginning(_CALL_END)})?"
    r")\Z"
)
_MOST_HELD = 64


class Parameters(Protocol):
    """Where a call's parameters go, one after the other: begin, any number of pieces, end."""

    def begin(self, key: str, /) -> None: ...
    def add(self, text: str, /) -> None: ...
    def end(self) -> None: ...


class _Place(Enum):
    BETWEEN = auto()
    KEY = auto()
    VALUE_START = auto()
    VALUE = auto()
    END = auto()


class ToolCallReader:
    """Reads what follows `<function=NAME>` up to and with `</function>`; the text is the caller's.
    Each character is looked at a bounded number of times, however the text is cut, and a value's
    goes on as soon as it cannot be part of the value's end."""

    __slots__ = ("_parameters", "_place")

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._place = _Place.BETWEEN

    @property
    def complete(self) -> bool:
        """Whether the end of the call was read: only then are all arguments the model's."""
        return self._place is _Place.END

    def step(self, text: str, at: int) -> int | None:
        """Reads one element of `text` from position `at`. Returns the position after it, None to
        be called again from there when there is more text, or when the call is complete."""
        match self._place:
            case _Place.BETWEEN:
                return self._between(text, at)
            case _Place.KEY:
                return self._key(text, at)
            case _Place.VALUE_START:
                return self._value_start(text, at)
            case _Place.VALUE:
                return self._value(text, at)
            case _Place.END:
                return None

    def finish(self, rest: str) -> None:
        """Nothing follows `rest`, which no step took: a call whose own end the model wrote is
        complete, though its last parameter was left open."""
        if self._place is _Place.VALUE and _OPEN_END.fullmatch(rest):
            self._parameters.end()
            self._place = _Place.END

    def _between(self, text: str, at: int) -> int | None:
        found = _NEXT.search(text, at)
        if found is None:
            # Stray text between elements is dropped, but for what may begin one.
            last = text.rfind("<", at)
            tail = text[last:] if last >= 0 else ""
            keep = len(tail) if any(tag.startswith(tail) for tag in _ELEMENTS) else 0
            to = len(text) - keep
            return to if to > at else None
        self._place = _Place.KEY if found.group() == _PARAMETER else _Place.END
        # The end of the enclosing block is the caller's; it also ends a call that was left open.
        return found.start() if found.group() == _CALL_END else found.end()

    def _key(self, text: str, at: int) -> int | None:
        end = text.find(">", at, at + _MAX_KEY)
        if end < 0:
            if len(text) < at + _MAX_KEY:
                return None
            self._place = _Place.BETWEEN
            return at + _MAX_KEY
        self._parameters.begin(text[at:end].strip())
        self._place = _Place.VALUE_START
        return end + 1

    def _value_start(self, text: str, at: int) -> int | None:
        if at == len(text):
            return None
        self._place = _Place.VALUE
        return at + text.startswith("\n", at)

    def _value(self, text: str, at: int) -> int | None:
        end = text.find(_PARAMETER_END, at)
        if end >= 0 and (found := _VALUE_END.search(text, max(at, end - 1))):
            self._parameters.add(text[at : found.start()])
            self._parameters.end()
            self._place = _Place.BETWEEN
            return found.end()
        to = _decided(text, at)
        if to == at:
            return None
        self._parameters.add(text[at:to])
        return to


def _decided(text: str, at: int) -> int:
    """Where the end of `text` begins that may become the end of a value, with its newline."""
    to = text.find("<", max(at, len(text) - _MOST_HELD))
    while to >= 0 and not _UNDECIDED.match(text, to):
        to = text.find("<", to + 1)
    to = len(text) if to < 0 else to
    return to - text.startswith("\n", to - 1) if to > at else to
