"""What the parser of the model's text reports; plain values, knows nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """The next piece of the thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins; `index` counts the calls of the answer from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """The next piece of a call's arguments; the pieces of one index join to a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallCut:
    """The text ended inside call `index`: the pieces of its arguments are only their beginning."""

    index: int


@dataclass(frozen=True, slots=True)
class StopHit:
    """A stop string was met: the answer ended before it, and nothing follows."""

    stop: str


OutputEvent = (
    ReasoningText | ContentText | ToolCallStart | ToolCallArguments | ToolCallCut | StopHit
)
