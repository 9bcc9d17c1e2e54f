"""The messages of a conversation, put together from items that are smaller than messages.

Knows when items belong to one turn of the model; not where they come from.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from server.api.messages import Message

_LAST = 1 << 32  # the rank of a result whose call is not known


class Turns:
    """`messages` so far, and for each its origin, whatever the caller numbers.

    Items whose `response` (the one that made them) is known are of one turn if and only if it is
    the same, also where the results of some calls stand between the calls, as some clients have it.
    Otherwise reasoning begins a turn, text and calls go on with it until something else comes, and
    a text that follows a text is a turn of its own.

    Results are put in the order of their calls: a prompt tells them apart by nothing else.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.origins: list[int | None] = []
        self._turn: Message | None = None
        self._response: str | None = None
        self._last = ""  # what the turn had last; empty once something else came
        self._ranks: dict[str, int] = {}  # of the turn's calls, by id
        self._results: list[int] = []  # ranks of the results that are there, ascending

    def add(self, message: Message, origin: int | None) -> None:
        """A message that is no part of a turn of the model: a user's or an instruction."""
        self.messages.append(message)
        self.origins.append(origin)
        self._begin(None)

    def answered(self, result: Message, origin: int | None) -> None:
        """The result of a call."""
        rank = self._ranks.get(result.get("tool_call_id", ""), _LAST)
        place = bisect_right(self._results, rank)
        index = len(self.messages) - len(self._results) + place
        self._results.insert(place, rank)
        self.messages.insert(index, result)
        self.origins.insert(index, origin)
        self._last = ""

    def reasoned(self, text: str, response: str | None, origin: int | None) -> None:
        turn = self._joined("reasoning", response, origin)
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def said(self, text: str, response: str | None, origin: int | None) -> None:
        self._joined("text", response, origin)["content"] += text

    def called(self, call: dict[str, Any], response: str | None, origin: int | None) -> None:
        calls = self._joined("call", response, origin).setdefault("tool_calls", [])
        calls.append(call)
        if "id" in call:
            self._ranks.setdefault(call["id"], len(calls))

    def _joined(self, kind: str, response: str | None, origin: int | None) -> Message:
        turn = self._turn
        if turn is None or not self._belongs(kind, response):
            turn = {"role": "assistant", "content": ""}
            self.messages.append(turn)
            self.origins.append(origin)
            self._begin(turn)
        self._response = response or self._response
        self._last = kind
        return turn

    def _begin(self, turn: Message | None) -> None:
        self._turn, self._response, self._last = turn, None, ""
        self._ranks, self._results = {}, []

    def _belongs(self, kind: str, response: str | None) -> bool:
        if response is not None and self._response is not None:
            return response == self._response
        if kind == "reasoning":
            return self._last == "reasoning"
        return self._last not in ("", "text") if kind == "text" else self._last != ""
