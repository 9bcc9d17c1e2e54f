"""From the model's text to thinking, content, tool calls and stops: pure and incremental."""

from .events import (
    ContentText,
    OutputEvent,
    ReasoningText,
    StopHit,
    ToolCallArguments,
    ToolCallCut,
    ToolCallStart,
)
from .parser import OutputParser

__all__ = [
    "ContentText",
    "OutputEvent",
    "OutputParser",
    "ReasoningText",
    "StopHit",
    "ToolCallArguments",
    "ToolCallCut",
    "ToolCallStart",
]
