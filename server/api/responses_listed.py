"""Input items as they are told back and kept: each with an id and a type, messages in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.api.errors import ApiError
from server.api.responses_ids import input_item_id

Json = dict[str, Any]

_STATUS = ("message", "function_call", "function_call_output")


def listed(items: Sequence[Mapping[str, Any]]) -> list[Json]:
    """`items` of a request that was found right, complete."""
    return [_complete(item) for item in items]


def _complete(item: Mapping[str, Any]) -> Json:
    kind = item.get("type") or "message"
    told: Json = {key: value for key, value in item.items() if value is not None}
    told["type"] = kind
    if not isinstance(told.get("id"), str) or not told["id"]:
        told["id"] = input_item_id(kind)
    if kind in _STATUS and not isinstance(told.get("status"), str):
        told["status"] = "completed"
    if kind == "reasoning":
        told["summary"] = told.get("summary") or []
    if kind == "message":
        told["content"] = _parts(told.get("content"), told.get("role") == "assistant")
    return told


def _parts(content: Any, answer: bool) -> list[Json]:
    if content is None:
        content = []
    parts = [content] if isinstance(content, str) else content
    return [_part(part, answer) for part in parts]


def _part(part: Any, answer: bool) -> Json:
    part = {"text": part} if isinstance(part, str) else dict(part)
    if part.get("type") == "refusal":
        return part
    if answer:
        return {"annotations": [], "logprobs": [], **part, "type": "output_text"}
    return {**part, "type": "input_text"}


def page(items: list[Json], after: str | None, limit: int, *, descending: bool) -> Json:
    """A page of `items`, beginning behind the one with id `after`. Raises ApiError where there is
    none of that id."""
    ordered = items[::-1] if descending else items
    begin = 0
    if after is not None:
        # The last of that id, as clients' items may share one: whoever turns pages gets on.
        found = [i + 1 for i, item in enumerate(ordered) if item["id"] == after]
        if not found:
            raise ApiError(f"after names no item of this response: {after!r:.120}.", param="after")
        begin = found[-1]
    data = ordered[begin : begin + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": begin + limit < len(ordered),
    }
