"""Anthropic's system, messages and content blocks -> the chat template's messages.

Knows which blocks a text model can read; not the template, nor how a prompt is rendered. Results of
tools become messages of their own, in the order of the calls they answer, as templates pair them by
their order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.api.errors import ApiError
from server.api.fields import shown
from server.api.noise import without_noise

log = logging.getLogger(__name__)

ROLES = ("user", "assistant", "system")
# Made and read by the vendor's own tools; a conversation may go on here that began there.
_FOREIGN = ("server_tool_use", "mcp_tool_use", "container_upload", "fallback", "connector_text")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """messages: in the template's shape. origins: for each the index in the request's `messages`,
    None for its `system`. continues: whether the last, an assistant's, is to be gone on with.
    after_tools: whether the request's last message has results of tools."""

    messages: list[Message]
    origins: tuple[int | None, ...]
    continues: bool
    after_tools: bool


def conversation(system: Any, wire: list[Any]) -> Conversation:
    """Raises ApiError naming the message, block and field at fault."""
    told: list[tuple[int | None, Message]] = []
    if system is not None and (text := without_noise(_joined(_texts(system, "system")))):
        told.append((None, {"role": "system", "content": text}))
    calls: dict[str, int] = {}  # of the last answer, their places by id
    for index, item in enumerate(wire):
        where = f"messages[{index}]"
        role = _role(item, where)
        content = item.get("content")
        if role == "assistant":
            message = _assistant(content, f"{where}.content")
            if told and told[-1][1]["role"] == "assistant":  # as Anthropic's service does
                told[-1] = (told[-1][0], message := _both(told[-1][1], message))
            else:
                told.append((index, message))
            ids = [call["id"] for call in message.get("tool_calls", ())]
            calls = {called: place for place, called in enumerate(ids)}
        elif role == "system":
            text = without_noise(_joined(_texts(content, f"{where}.content")))
            told.append((index, {"role": "system", "content": text}))
        else:
            told += [(index, message) for message in _user(content, f"{where}.content", calls)]
    last, place = wire[-1], f"messages[{len(wire) - 1}]"
    continues = last.get("role") == "assistant"
    if continues and told[-1][1].get("tool_calls"):
        text = f"{place} has tool_use blocks; a user message with their tool_result has to follow."
        raise ApiError(text, param=place)
    return Conversation(
        [message for _, message in told],
        tuple(origin for origin, _ in told),
        continues,
        told[-1][1]["role"] == "tool" or (last.get("role") == "user" and _has_results(last)),
    )


def _role(item: Any, where: str) -> str:
    if not isinstance(item, Mapping):
        raise ApiError(f"{where} must be an object; got {shown(item)}.", param=where)
    role = item.get("role")
    if role not in ROLES:
        place = f"{where}.role"
        legal = ", ".join(ROLES)
        raise ApiError(f"{place} must be one of {legal}; got {shown(role)}.", param=place)
    return role


def _has_results(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(b.get("type") == "tool_result" for b in content)


def _blocks(content: Any, where: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each block's type and place, and the block; a string is one text."""
    if isinstance(content, str):
        yield "text", where, {"type": "text", "text": content}
        return
    if not isinstance(content, list):
        text = f"{where} must be a string or a list of content blocks; got {shown(content)}."
        raise ApiError(text, param=where)
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if not isinstance(kind, str):
            raise ApiError(f"{place} must be an object with a type.", param=place)
        yield kind, place, block


def _text(block: Mapping[str, Any], where: str, field: str = "text") -> str:
    value = block.get(field)
    if not isinstance(value, str):
        place = f"{where}.{field}"
        raise ApiError(f"{place} must be a string; got {shown(value)}.", param=place)
    return value


def _texts(content: Any, where: str) -> Iterator[str]:
    """The texts of blocks that have to be text."""
    for kind, place, block in _blocks(content, where):
        if kind != "text":
            raise _unsupported(kind, place)
        yield _text(block, place)


def _joined(texts: Iterable[str]) -> str:
    """Texts that were blocks of their own do not run into each other."""
    whole = ""
    for text in texts:
        apart = not whole or not text or whole[-1].isspace() or text[0].isspace()
        whole += text if apart else f"\n{text}"
    return whole


def _readable(kind: str, block: Mapping[str, Any], where: str) -> str:
    """The text of a block that a user or a tool may send."""
    if kind == "text":
        return _text(block, where)
    if kind == "document":
        return _document(block, where)
    if kind == "search_result":
        parts = [_text(block, where, "title"), _text(block, where, "source")]
        return _joined([*parts, *_texts(block.get("content"), f"{where}.content")])
    if kind == "tool_reference":
        return _text(block, where, "tool_name")
    raise _unsupported(kind, where)


def _document(block: Mapping[str, Any], where: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if not isinstance(source, Mapping) or kind not in ("text", "content"):
        raise _unsupported(f"document ({kind})", where)
    place = f"{where}.source"
    if kind == "text":
        body = _text(source, place, "data")
    else:
        body = _joined(_texts(source.get("content"), f"{place}.content"))
    above = [text for field in ("title", "context") if isinstance(text := block.get(field), str)]
    return _joined([*above, body])


def _unsupported(kind: str, where: str) -> ApiError:
    return ApiError(
        f"{where} is of type {kind:.80}; this model reads text only.",
        param=where,
        code="unsupported_content",
    )


def _user(content: Any, where: str, calls: Mapping[str, int]) -> Iterator[Message]:
    """Messages in the order of the blocks; results that follow each other in that of `calls`."""
    texts: list[str] = []
    results: list[Message] = []

    def rank(result: Message) -> int:
        return calls.get(result["tool_call_id"], len(calls))

    empty = True
    for kind, place, block in _blocks(content, where):
        empty = False
        if kind == "tool_result":
            if texts:
                yield {"role": "user", "content": _joined(texts)}
                texts = []
            results.append(_result(block, place))
            continue
        yield from sorted(results, key=rank)
        results = []
        texts.append(_readable(kind, block, place))
    yield from sorted(results, key=rank)
    if texts or empty:
        yield {"role": "user", "content": _joined(texts)}


def _result(block: Mapping[str, Any], where: str) -> Message:
    called = _text(block, where, "tool_use_id")
    content = block.get("content")
    place = f"{where}.content"
    parts = [] if content is None else _blocks(content, place)
    text = _joined(_readable(kind, part, at) for kind, at, part in parts)
    if block.get("is_error") is True and "error" not in text[:80].lower():
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "content": text, "tool_call_id": called}


def _assistant(content: Any, where: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Message] = []
    for kind, place, block in _blocks(content, where):
        if kind == "text":
            texts.append(_text(block, place))
        elif kind == "thinking":
            thoughts.append(_text(block, place, "thinking"))
        elif kind == "tool_use":
            calls.append(_call(block, place))
        elif kind == "compaction":
            texts.append(block["content"] if isinstance(block.get("content"), str) else "")
        elif kind in _FOREIGN or kind.endswith("_tool_result"):
            log.warning("left out a block of type %.80r", kind)
        elif kind != "redacted_thinking":
            raise _unsupported(kind, place)
    message: Message = {"role": "assistant", "content": "".join(texts)}
    if thought := "".join(thoughts):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Mapping[str, Any], where: str) -> Message:
    name, called, given = _text(block, where, "name"), _text(block, where, "id"), block.get("input")
    if not name:
        raise ApiError(f"{where}.name must not be empty.", param=f"{where}.name")
    if given is not None and not isinstance(given, Mapping):
        place = f"{where}.input"
        raise ApiError(f"{place} must be an object; got {shown(given)}.", param=place)
    function = {"name": name, "arguments": dict(given or {})}
    return {"id": called, "type": "function", "function": function}


def _both(first: Message, second: Message) -> Message:
    """Two messages of the assistant that follow each other, as one."""
    both: Message = {"role": "assistant", "content": first["content"] + second["content"]}
    thought = first.get("reasoning_content", "") + second.get("reasoning_content", "")
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    if thought:
        both["reasoning_content"] = thought
    if calls:
        both["tool_calls"] = calls
    return both
