"""One output item as it grows: its events, and its JSON at any point.

Knows the shapes of reasoning, message and function_call; not when an item begins or ends, and no
sequence numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from server.api.logprobs_wire import chat_logprobs
from server.engine.events import TokenLogprob

Json = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Form:
    """What the request makes of its answer. summary: thoughts come with one. logprobs: text comes
    with log probabilities. seal: makes the encrypted form of a thought, where it was asked for.
    namespaces: offered name of a function -> (its namespace, its name there)."""

    summary: bool = False
    logprobs: bool = False
    seal: Callable[[str], str] | None = None
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class _Item:
    """What all have in common: a place, and a text that grows."""

    def __init__(self, id: str, index: int) -> None:
        self.id = id
        self._where: Json = {"item_id": id, "output_index": index}
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def json(self, status: Status) -> Json:
        raise NotImplementedError

    def _added(self, empty: Json) -> Json:
        index = self._where["output_index"]
        return {"type": "response.output_item.added", "output_index": index, "item": empty}

    def _done(self, status: Status) -> Json:
        index = self._where["output_index"]
        return {
            "type": "response.output_item.done",
            "output_index": index,
            "item": self.json(status),
        }

    def _event(self, kind: str, **more: Any) -> Json:
        return {"type": f"response.{kind}", **self._where, **more}


class ReasoningItem(_Item):
    """A thought. Its summary, where one is wanted, is the thought itself: there is nobody to
    write a shorter one."""

    def __init__(self, id: str, index: int, form: Form) -> None:
        super().__init__(id, index)
        self._form = form

    def opening(self) -> Iterator[Json]:
        item = {"id": self.id, "type": "reasoning", "status": "in_progress"}
        yield self._added({**item, "summary": [], "content": []})
        yield self._event("content_part.added", content_index=0, part=_thought(""))
        if self._form.summary:
            yield self._event("reasoning_summary_part.added", summary_index=0, part=_summary(""))

    def add(self, text: str) -> Iterator[Json]:
        self._pieces.append(text)
        yield self._event("reasoning_text.delta", content_index=0, delta=text)
        if self._form.summary:
            yield self._event("reasoning_summary_text.delta", summary_index=0, delta=text)

    def closing(self, status: Status) -> Iterator[Json]:
        text = self.text
        yield self._event("reasoning_text.done", content_index=0, text=text)
        yield self._event("content_part.done", content_index=0, part=_thought(text))
        if self._form.summary:
            yield self._event("reasoning_summary_text.done", summary_index=0, text=text)
            yield self._event("reasoning_summary_part.done", summary_index=0, part=_summary(text))
        yield self._done(status)

    def json(self, status: Status) -> Json:
        text = self.text
        item: Json = {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": [_summary(text)] if self._form.summary else [],
            "content": [_thought(text)],
        }
        if self._form.seal is not None and status != "in_progress":
            item["encrypted_content"] = self._form.seal(text)
        return item


class MessageItem(_Item):
    """A part of the answer's text."""

    def __init__(self, id: str, index: int, form: Form) -> None:
        super().__init__(id, index)
        self._form = form
        self._logprobs: list[TokenLogprob] = []

    def opening(self) -> Iterator[Json]:
        yield self._added({**self._head("in_progress"), "content": []})
        yield self._event("content_part.added", content_index=0, part=self._part())

    def add(self, text: str, logprobs: Iterable[TokenLogprob] = ()) -> Iterator[Json]:
        """More text, and the log probabilities of its tokens."""
        told = tuple(logprobs) if self._form.logprobs else ()
        if text or told:
            self._pieces.append(text)
            self._logprobs += told
            more = {"delta": text, "logprobs": chat_logprobs(told)}
            yield self._event("output_text.delta", content_index=0, **more)

    def closing(self, status: Status) -> Iterator[Json]:
        part = self._part()
        more = {"text": part["text"], "logprobs": part["logprobs"]}
        yield self._event("output_text.done", content_index=0, **more)
        yield self._event("content_part.done", content_index=0, part=part)
        yield self._done(status)

    def json(self, status: Status) -> Json:
        return {**self._head(status), "content": [self._part()]}

    def _head(self, status: Status) -> Json:
        return {"id": self.id, "type": "message", "status": status, "role": "assistant"}

    def _part(self) -> Json:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": chat_logprobs(self._logprobs),
        }


class CallItem(_Item):
    """A call of a function."""

    def __init__(self, id: str, index: int, form: Form, call_id: str, name: str) -> None:
        super().__init__(id, index)
        self._head: Json = {"id": id, "type": "function_call", "call_id": call_id, "name": name}
        if name in form.namespaces:
            namespace, inner = form.namespaces[name]
            self._head |= {"name": inner, "namespace": namespace}

    def opening(self) -> Iterator[Json]:
        yield self._added(self.json("in_progress"))

    def add(self, arguments: str) -> Iterator[Json]:
        if arguments:
            self._pieces.append(arguments)
            yield self._event("function_call_arguments.delta", delta=arguments)

    def closing(self, status: Status) -> Iterator[Json]:
        named = {"name": self._head["name"], "arguments": self.text}
        yield self._event("function_call_arguments.done", **named)
        yield self._done(status)

    def json(self, status: Status) -> Json:
        return {**self._head, "arguments": self.text, "status": status}


def _thought(text: str) -> Json:
    return {"type": "reasoning_text", "text": text}


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}
