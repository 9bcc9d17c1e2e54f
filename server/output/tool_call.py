"""One tool call in the model's XML-like form, read incrementally.

    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>

Knows this grammar only, nothing of what values mean. A value may hold any text, this very grammar
included, and ends at the first line `</parameter>` that is followed by another parameter or by the
end of the call; one that does not begin on its own line, at any such `</parameter>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from typing import Protocol

_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_FUNCTION_END, _CALL_END = "</function>", "</tool_call>"
_ELEMENTS = (_PARAMETER, _FUNCTION_END, _CALL_END)
_NEXT = re.compile("|".join(map(re.escape, _ELEMENTS)))
_MAX_KEY = 1024
HEAD_ROOM = 256  # characters between a call's tag and the end of its head, besides the name


def _beginning(tag: str) -> str:
    """A pattern of every beginning of `tag` that is not empty, itself included."""
    inner = reduce(lambda rest, character: f"(?:{re.escape(character)}{rest})?", reversed(tag), "")
    return inner.removesuffix("?")


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a value ends. end: with its newline, where what follows shows it to be the end;
    undecided: what more text may make an end, at the end of the text."""

    end: re.Pattern[str]
    undecided: re.Pattern[str]


def _ending(before: str, after: str) -> _Ending:
    elements, begun = "|".join(_ELEMENTS), "|".join(map(_beginning, _ELEMENTS))
    undecided = (
        rf"{before}(?:{_beginning(_PARAMETER_END)}|{_PARAMETER_END}{after}(?:{begun})?)"
        rf"|\n?(?:{_beginning(_FUNCTION_END)}"
        rf"|{_FUNCTION_END}\s{{0,16}}(?:{_CALL_END}\s{{0,16}}|{_beginning(_CALL_END)})?)"
        r"|\n"
    )
    return _Ending(
        re.compile(rf"{before}{_PARAMETER_END}(?={after}(?:{elements}))"),
        re.compile(rf"(?:{undecided})\Z"),
    )


# Blanks are bounded, so that no more than _MOST_HELD characters are ever undecided.
_ON_ITS_LINE = _ending(r"\n", r"\n\s{0,32}")
_ANYWHERE = _ending(r"\n?", r"\s{0,32}")
# A model that leaves its last parameter open, and ends the call: known only when the text ends.
_OPEN_END = re.compile(rf"\n?{_FUNCTION_END}\s{{0,16}}{_CALL_END}\s{{0,16}}")
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

    __slots__ = ("_ending", "_parameters", "_place")

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._place = _Place.BETWEEN
        self._ending = _ON_ITS_LINE

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
        inside = self._place in (_Place.VALUE_START, _Place.VALUE)
        if inside and _OPEN_END.fullmatch(rest):
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
        if text[at] != "\n":
            self._ending, self._place = _ANYWHERE, _Place.VALUE
            return at
        # The newline that opens the value may also be the one that closes it.
        if found := _ON_ITS_LINE.end.match(text, at):
            return self._ended(found)
        if _ON_ITS_LINE.undecided.match(text, at):
            return None
        self._ending, self._place = _ON_ITS_LINE, _Place.VALUE
        return at + 1

    def _value(self, text: str, at: int) -> int | None:
        end = text.find(_PARAMETER_END, at)
        if end >= 0 and (found := self._ending.end.search(text, max(at, end - 1))):
            self._parameters.add(text[at : found.start()])
            return self._ended(found)
        to = self._decided(text, at)
        if to == at:
            return None
        self._parameters.add(text[at:to])
        return to

    def _ended(self, found: re.Match[str]) -> int:
        self._parameters.end()
        self._place = _Place.BETWEEN
        return found.end()

    def _decided(self, text: str, at: int) -> int:
        """Where the end of `text` begins that may become the end of the value."""
        tag = text.find("<", max(at, len(text) - _MOST_HELD))
        while tag >= 0:
            start = tag - (tag > at and text[tag - 1] == "\n")
            if self._ending.undecided.match(text, start):
                return start
            tag = text.find("<", tag + 1)
        return len(text) - (len(text) > at and text.endswith("\n"))
