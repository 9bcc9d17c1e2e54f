"""Streams of response events, read as a client reads them, and checked on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from server.engine.events import Finished, FinishReason, Timings, ToolCallDelta, Usage

Json = dict[str, Any]

STRICT = TypeAdapter(ResponseStreamEvent)
ENDS = ("response.completed", "response.incomplete", "response.failed")
DELTAS = {
    "response.reasoning_text.delta": "thought",
    "response.reasoning_summary_text.delta": "summary",
    "response.output_text.delta": "text",
    "response.function_call_arguments.delta": "arguments",
}


def finished(reason: FinishReason = "stop", **usage: Any) -> Finished:
    counts = {"prompt_tokens": 11, "completion_tokens": 9, "reasoning_tokens": 4}
    told = Usage(**{**counts, "cached_tokens": 7, "thinking_cut": False, **usage})
    return Finished(0, reason, told, Timings(0, 0, 0, 0))


def call(index: int, name: str, *pieces: str) -> list[ToolCallDelta]:
    """The engine's events of a call."""
    first = ToolCallDelta(0, index, f"call_{index}", name, "")
    return [first, *[ToolCallDelta(0, index, None, None, piece) for piece in pieces]]


def parsed(frames: Iterable[bytes] | str) -> list[Json]:
    """The events of frames, or of a stream's text; their names are those of their types."""
    text = frames if isinstance(frames, str) else b"".join(frames).decode()
    return list(_parsed(text))


def _parsed(text: str) -> Iterator[Json]:
    for frame in text.split("\n\n"):
        if frame and not frame.startswith(":"):
            name, data = frame.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            yield event


def checked(told: list[Json]) -> Json:
    """The response of a stream, whose order and types are checked on the way."""
    for number, event in enumerate(told):
        STRICT.validate_json(json.dumps(event), strict=True)
        assert event["sequence_number"] == number
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    for event in told[:2]:
        assert (event["response"]["status"], event["response"]["output"]) == ("in_progress", [])
    assert [event["type"] in ENDS for event in told].count(True) == 1
    items = []
    opened: _Opened | None = None
    for event in told[2:-1]:
        kind = event["type"].removeprefix("response.")
        if kind == "in_progress":
            continue
        assert event["output_index"] == len(items)
        if kind == "output_item.added":
            assert opened is None
            opened = _Opened(event["item"])
        else:
            assert opened is not None
            opened.takes(kind, event)
            if kind == "output_item.done":
                items.append(event["item"])
                opened = None
    assert opened is None
    last = told[-1]["response"]
    assert last["output"] == items
    Response.model_validate_json(json.dumps(last), strict=True)
    return last


class _Opened:
    """An item as a client puts it together from its deltas."""

    def __init__(self, item: Json) -> None:
        self.item = item
        self.parts = dict.fromkeys(DELTAS.values(), "")
        self.open: set[str] = set()
        assert item["status"] == "in_progress"
        assert not any(item.get(key) for key in ("content", "summary", "arguments"))

    def takes(self, kind: str, event: Json) -> None:
        if kind == "output_item.done":
            assert not self.open
            assert self.same(event["item"])
            return
        assert event["item_id"] == self.item["id"]
        if kind.endswith(".added"):
            self.open.add(kind.removesuffix(".added"))
            assert event["part"]["text"] == ""
        elif kind.endswith(".delta"):
            assert event["delta"] or event.get("logprobs")
            self.parts[DELTAS[event["type"]]] += event["delta"]
        elif kind in ("content_part.done", "reasoning_summary_part.done"):
            self.open.remove(kind.removesuffix(".done"))
            assert event["part"]["text"] == self.parts[self.part(kind)]
        else:
            done = event["arguments"] if "arguments" in event else event["text"]
            assert done == self.parts[DELTAS[f"response.{kind.removesuffix('.done')}.delta"]]

    def part(self, kind: str) -> str:
        if kind == "reasoning_summary_part.done":
            return "summary"
        return "thought" if self.item["type"] == "reasoning" else "text"

    def same(self, item: Json) -> bool:
        text = "".join(part["text"] for part in item.get("content", ()))
        summary = "".join(part["text"] for part in item.get("summary", ()))
        told = {
            "reasoning": {"thought": text, "summary": summary},
            "message": {"text": text},
            "function_call": {"arguments": item.get("arguments")},
        }[item["type"]]
        return {name: part for name, part in self.parts.items() if part} == {
            name: part for name, part in told.items() if part
        } and item["id"] == self.item["id"]
