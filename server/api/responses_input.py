"""Input items -> the chat template's messages.

Knows the items that clients send, their own and those that a response was made of, and which of
them were one turn of the model: reasoning, text and calls become one message again, as they were
generated. Not the template, nor how an answer is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.api.errors import ApiError
from server.api.fields import shown
from server.api.messages import Message, arguments_of, text_of, with_a_question
from server.api.noise import without_noise
from server.api.responses_ids import response_of
from server.api.responses_turns import Turns

log = logging.getLogger(__name__)

ROLES = ("user", "assistant", "system", "developer")
MAX_ITEMS = 10_000
# Calls of tools that are no functions, whose text can be shown to the model all the same: where
# their arguments are.
_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
}
_OUTPUTS = (
    "function_call_output",
    "custom_tool_call_output",
    "local_shell_call_output",
    "shell_call_output",
    "apply_patch_call_output",
)

Json = dict[str, Any]
Opener = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Conversation:
    """messages: for the template. origins: for each, which item of the request it began with; None
    where it was none of them."""

    messages: list[Message]
    origins: list[int | None]


def items_of(given: Any) -> list[Any]:
    """The request's input as a list of items. Raises ApiError."""
    if given is None:
        return []
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or len(given) > MAX_ITEMS:
        text = f"input must be a string or a list of up to {MAX_ITEMS} items; got {shown(given)}."
        raise ApiError(text, param="input")
    return given


def conversation(
    instructions: str | None, before: Sequence[Json], own: Sequence[Any], unseal: Opener
) -> Conversation:
    """`instructions`, the items of the responses `before` this one and its `own`, as one
    conversation. `unseal` reads encrypted reasoning. Raises ApiError naming the item."""
    turns = Turns()
    if instructions:
        turns.add({"role": "system", "content": without_noise(instructions)}, None)
    for item in before:
        _add(turns, item, "previous_response_id", None, unseal)
    for index, item in enumerate(own):
        _add(turns, item, f"input[{index}]", index, unseal)
    if not turns.messages:
        text = "input is required, as a string or a list of items."
        raise ApiError(text, param="input", code="missing_required_parameter")
    return Conversation(with_a_question(turns.messages), turns.origins)


def _add(turns: Turns, item: Any, where: str, origin: int | None, unseal: Opener) -> None:
    if not isinstance(item, Mapping):
        raise ApiError(f"{where} must be an object; got {shown(item)}.", param=where)
    kind = item.get("type")
    kind = "message" if kind is None else kind
    if not isinstance(kind, str):
        raise ApiError(f"{where}.type must be a string; got {shown(kind)}.", param=f"{where}.type")
    response = response_of(item.get("id"))
    if kind == "message":
        _add_message(turns, item, where, origin)
    elif kind == "reasoning":
        text = _reasoning(item, where, unseal)
        if text:
            turns.reasoned(text, response, origin)
    elif kind in _CALLS:
        turns.called(_call(item, kind, where), response, origin)
    elif kind in _OUTPUTS:
        message: Message = {"role": "tool", "content": _output(item, where)}
        if isinstance(item.get("call_id"), str):
            message["tool_call_id"] = item["call_id"]
        turns.answered(message, origin)
    else:
        log.warning("left out an item of type %r", kind[:80])


def _add_message(turns: Turns, item: Mapping[str, Any], where: str, origin: int | None) -> None:
    role = item.get("role")
    if role not in ROLES:
        text = f"{where}.role must be one of {', '.join(ROLES)}; got {shown(role)}."
        raise ApiError(text, param=f"{where}.role")
    content = text_of(item.get("content"), f"{where}.content")
    if role == "assistant":
        turns.said(content, response_of(item.get("id")), origin)
    elif role == "user":
        turns.add({"role": "user", "content": content}, origin)
    else:
        turns.add({"role": "system", "content": without_noise(content)}, origin)


def _reasoning(item: Mapping[str, Any], where: str, unseal: Opener) -> str:
    """The thought: from its encrypted form, else as it stands there, else from its summary."""
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str):
        if (text := unseal(sealed)) is not None:
            return text
        log.warning("%s: encrypted_content was not made here, or with another key", where)
    for name in ("content", "summary"):
        parts = item.get(name)
        if parts is None:
            continue
        if not isinstance(parts, list):
            text = f"{where}.{name} must be a list of parts; got {shown(parts)}."
            raise ApiError(text, param=f"{where}.{name}")
        texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
        if found := [text for text in texts if isinstance(text, str)]:
            return "".join(found)
    return ""


def _call(item: Mapping[str, Any], kind: str, where: str) -> Json:
    name = item.get("name") or ("" if kind == "function_call" else kind.removesuffix("_call"))
    if not isinstance(name, str) or not name:
        text = f"{where}.name must be a non-empty string; got {shown(item.get('name'))}."
        raise ApiError(text, param=f"{where}.name")
    namespace = item.get("namespace")
    if isinstance(namespace, str) and namespace:
        name = f"{namespace}.{name}"
    field = _CALLS[kind]
    given = item.get(field)
    if kind == "custom_tool_call":
        given = {field: given}
    call = {"type": "function", "function": {"name": name, "arguments": arguments_of(given)}}
    id = item.get("call_id")
    return {"id": id, **call} if isinstance(id, str) else call


def _output(item: Mapping[str, Any], where: str) -> str:
    output = item.get("output")
    if isinstance(output, list) and item["type"] == "shell_call_output":
        parts = [part for part in output if isinstance(part, Mapping)]
        return "".join(f"{part.get('stdout', '')}{part.get('stderr', '')}" for part in parts)
    return text_of(output, f"{where}.output")
