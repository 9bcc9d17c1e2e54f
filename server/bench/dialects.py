"""The four dialects as a client speaks them: one question in each, and how its stream is read.

Knows the wires; nothing of how requests are sent or of what is done with answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from server.bench.streams import Body, Read, Stream, add_piece, read_chat, read_choices

NAMES = ("chat", "responses", "messages", "completions")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, in no dialect yet. banned: tokens that would end an answer early."""

    text: str
    tokens: int
    temperature: float
    seed: int
    thinking: bool
    banned: Sequence[int] = ()

    @property
    def sampling(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"temperature": self.temperature, "seed": self.seed}
        if self.banned:
            fields["logit_bias"] = {str(token): -100 for token in self.banned}
        return fields

    @property
    def turns(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where it is spoken, what a question is in it, and how an event of its stream is taken in."""

    name: str
    path: str
    body: Callable[[Question], Body]
    read: Read


def _chat(question: Question) -> Body:
    return {
        "messages": question.turns,
        "max_tokens": question.tokens,
        "chat_template_kwargs": {"enable_thinking": question.thinking},
        **question.sampling,
    }


def _responses(question: Question) -> Body:
    effort = {} if question.thinking else {"reasoning": {"effort": "none"}}
    return {
        "input": question.text,
        "max_output_tokens": question.tokens,
        "store": False,
        **effort,
        **question.sampling,
    }


def _messages(question: Question) -> Body:
    thinking = {"type": "adaptive" if question.thinking else "disabled"}
    return {
        "messages": question.turns,
        "max_tokens": question.tokens,
        "thinking": thinking,
        **question.sampling,
    }


def _completions(question: Question) -> Body:
    return {"prompt": question.text, "max_tokens": question.tokens, **question.sampling}


def _read_responses(stream: Stream, data: str, now: float) -> bool:
    event = json.loads(data)
    kind = event["type"]
    if kind == "response.created":
        stream.id = event["response"]["id"]
    elif kind in ("response.output_text.delta", "response.reasoning_text.delta"):
        add_piece(stream, event["delta"], now)
    elif kind in ("response.completed", "response.incomplete"):
        stream.finish_reason = event["response"]["status"]
        stream.completion_tokens = (event["response"]["usage"] or {}).get("output_tokens")
        return True
    elif kind in ("response.failed", "error"):
        stream.error = f"the server broke off: {data[:300]}"
    return False


def _read_messages(stream: Stream, data: str, now: float) -> bool:
    event = json.loads(data)
    kind = event["type"]
    if kind == "content_block_delta":
        delta = event["delta"]
        add_piece(stream, delta.get("text") or delta.get("thinking") or "", now)
    elif kind == "message_delta":
        stream.finish_reason = event["delta"]["stop_reason"]
        stream.completion_tokens = event["usage"]["output_tokens"]
    elif kind == "error":
        stream.error = f"the server broke off: {data[:300]}"
    return kind == "message_stop"


def _read_completions(stream: Stream, data: str, now: float) -> bool:
    return read_choices(stream, data, now, lambda choice: choice.get("text") or "")


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("chat", "/v1/chat/completions", _chat, read_chat),
        Dialect("responses", "/v1/responses", _responses, _read_responses),
        Dialect("messages", "/v1/messages", _messages, _read_messages),
        Dialect("completions", "/v1/completions", _completions, _read_completions),
    )
}
