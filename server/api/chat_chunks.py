"""The engine's events -> the chunks of a streamed chat completion.

Knows OpenAI's chunks and their order: the role first, then text and calls, the finish_reason, and
the usage last. No HTTP, no engine.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.api.chat_wire import Answer, Form, Json, Tally, logprobs_json
from server.engine.events import (
    ContentDelta,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
)


class Chunks:
    """Makes the chunks of a streamed answer, event by event. With `continuous_usage` each has the
    usage so far."""

    def __init__(
        self,
        answer: Answer,
        form: Form,
        *,
        include_usage: bool = False,
        continuous_usage: bool = False,
    ) -> None:
        self._answer = answer
        self._form = form
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._unopened = dict.fromkeys(range(form.n))
        self._tally = Tally(form.n)

    def add(self, event: Event) -> Iterator[Json]:
        """The chunks `event` becomes; the role comes first, once for each choice."""
        self._tally.add(event)
        if isinstance(event, Started):
            for choice in list(self._unopened):
                yield from self._opening(choice)
            return
        if not isinstance(event, (ReasoningDelta, ContentDelta, ToolCallDelta, Finished)):
            return
        choice = event.choice
        yield from self._opening(choice)
        if isinstance(event, Finished):
            chunk = self._chunk(choice, {}, self._form.reason(event))
            last = self.complete and not self._include_usage
            yield {**chunk, **self._tally.extension()} if last else chunk
        elif isinstance(event, ReasoningDelta):
            yield self._chunk(choice, {"reasoning_content": event.text})
        elif isinstance(event, ContentDelta):
            yield self._chunk(choice, {"content": event.text}, logprobs=event.logprobs)
        elif not (self._form.functions and event.index > 0):  # there is one function_call
            yield self._chunk(choice, self._call(event))

    @property
    def complete(self) -> bool:
        return self._tally.complete

    def closing(self) -> Iterator[Json]:
        """What follows the last choice: the usage, where it was asked for."""
        if self._include_usage:
            chunk = self._answer.head("chat.completion.chunk")
            chunk |= {"choices": [], "usage": self._tally.json()}
            yield {**chunk, **self._tally.extension()}

    def _opening(self, choice: int) -> Iterator[Json]:
        if choice in self._unopened:
            del self._unopened[choice]
            yield self._chunk(choice, {"role": "assistant", "content": self._form.prefix})

    def _chunk(
        self,
        choice: int,
        delta: Json,
        reason: str | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Json:
        told = logprobs_json(logprobs) if logprobs and self._form.logprobs else None
        chunk = self._answer.head("chat.completion.chunk")
        chunk["choices"] = [
            {"index": choice, "delta": delta, "logprobs": told, "finish_reason": reason}
        ]
        if self._include_usage:
            chunk["usage"] = self._tally.so_far() if self._continuous_usage else None
        return chunk

    def _call(self, event: ToolCallDelta) -> Json:
        """A call's id, type and name are in its first delta only: clients join what is repeated."""
        function: Json = {"arguments": event.arguments}
        if event.name is not None:
            function = {"name": event.name, **function}
        if self._form.functions:
            return {"function_call": function}
        delta: Json = {"index": event.index, "function": function}
        if event.id is not None:
            delta = {"index": event.index, "id": event.id, "type": "function", "function": function}
        return {"tool_calls": [delta]}
