"""What a dialogue knows while it is being written: facts told, the topic, the tools on offer."""

from dataclasses import dataclass, field
from typing import Any

from .draw import Draw
from .lexicon import Country

Message = dict[str, Any]


@dataclass
class Conversation:
    """State shared by the skills of one dialogue."""

    draw: Draw
    facts: dict[str, str] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)  # fact -> the turn that told it
    turn: int = 0  # index of the turn being written
    topic: str = ""  # skill of the turn before, for follow-ups
    asked: list[Country] = field(default_factory=list)  # countries asked in a row
    tools: list[Any] = field(default_factory=list)  # tools.Tool objects on offer
    drill: bool = False  # only the hardest skills
    deliberate: bool = False  # this turn asks for long thinking
    last_tool: Any = None


@dataclass
class Turn:
    """A user's message and everything up to the end of the assistant's answer."""

    user: str
    replies: list[Message]
    skill: str
    topic: str = ""


def reply(thought: str, content: str, skill: str, calls: list[Message] | None = None) -> Message:
    """An assistant message; `skill` is dropped before rendering."""
    message: Message = {
        "role": "assistant", "content": content, "reasoning_content": thought, "skill": skill,
    }  # fmt: skip
    if calls:
        message["tool_calls"] = calls
    return message
