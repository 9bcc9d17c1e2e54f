"""What a prompt would cost a perfect cache: the yardstick of the replay.

Knows token sequences and the checkpoint's own template and tokenizer; nothing of servers and of
what they claim. docs/benchmarks/README.md has the definitions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from model.errors import CheckpointError
from model.template import ChatTemplate, TemplateError
from server.bench.client import BenchError

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reuse:
    """How much of a prompt of `prompt` tokens was seen before.

    anywhere: the longest prefix of anything seen, the prompt's last token excepted (its logits are
    always computed). at_ends: the same cut back to where a message or an answer ended, which is as
    far as a model with recurrent layers gets when it keeps a state at every such place.
    """

    prompt: int
    anywhere: int
    at_ends: int

    @property
    def new(self) -> int:
        """Tokens never seen before: what any exact cache has to compute."""
        return self.prompt - self.anywhere

    @property
    def after_end(self) -> int:
        """Tokens behind the last seen end of a message."""
        return self.prompt - self.at_ends


class SeenPrefixes:
    """Every prefix of every sequence seen, as 64-bit hashes; unlimited, as an ideal may be.

    `ends`: the token ids that end a turn.
    """

    def __init__(self, ends: Iterable[int]) -> None:
        self._ends = frozenset(ends)
        self._seen: set[int] = set()
        self._resumable: set[int] = set()

    def reuse(self, prompt: Sequence[int]) -> Reuse:
        """What of `prompt` is in the prefixes seen so far. Changes nothing."""
        anywhere = at_ends = 0
        for length, digest in _prefixes(prompt[:-1]):
            if digest not in self._seen:
                break
            anywhere = length
            if digest in self._resumable:
                at_ends = length
        return Reuse(len(prompt), anywhere, at_ends)

    def add(self, tokens: Sequence[int], stops: Iterable[int] = ()) -> None:
        """`tokens` were computed. A message ends behind each end token and behind the token after
        it (the line break that templates write there), and at the lengths `stops`."""
        extra = frozenset(stops)
        after_end = False
        for length, digest in _prefixes(tokens):
            self._seen.add(digest)
            is_end = tokens[length - 1] in self._ends
            if is_end or after_end or length in extra:
                self._resumable.add(digest)
            after_end = is_end


def _prefixes(tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Length and hash of each prefix that is not empty. 64 bits: among ten million prefixes a
    chance of one in 300,000 that two agree by accident."""
    digest = 0
    for length, token in enumerate(tokens, start=1):
        digest = hash((digest, token))
        yield length, digest


class PromptText:
    """Renders and encodes conversations as the checkpoint in `folder` says.

    Uses the plain tokenizer on the whole rendered text: no spliced ids, nothing remembered.
    """

    def __init__(self, folder: Path) -> None:
        """Raises BenchError when the checkpoint lacks template or tokenizer."""
        try:
            self._template = ChatTemplate.from_folder(folder)
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except CheckpointError as error:
            raise BenchError(str(error)) from error
        except Exception as error:  # the binding raises bare Exception
            raise BenchError(f"{folder}: no tokenizer: {error}") from error
        self.ends = end_tokens(folder)
        self._end_texts = [
            text for id_ in self.ends if (text := self._tokenizer.id_to_token(id_)) is not None
        ]

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Message], *, thinking: bool, keep: bool
    ) -> list[int]:
        """The tokens of a request, generation prompt included. `keep`: preserve_thinking."""
        return self._encode(self._render(messages, tools, thinking, keep, answer=None))

    def after_answer(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message],
        answer: Message,
        *,
        thinking: bool,
        keep: bool,
        complete: bool,
    ) -> list[int]:
        """The request's tokens and those of its answer, thoughts included, as far as they were
        generated: to the end token, or for an answer that is not `complete` to its last text."""
        text = self._render(messages, tools, thinking, keep, answer=answer)
        cut = max((text.rfind(end) + len(end) for end in self._end_texts if end in text), default=0)
        text = text[:cut] or text
        if not complete:
            text = _cut_short(text, answer, self._end_texts)
        return self._encode(text)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message],
        thinking: bool,
        keep: bool,
        answer: Message | None,
    ) -> str:
        shown = [_with_parsed_calls(message) for message in messages]
        if answer is not None:
            shown.append(_with_parsed_calls(answer))
        try:
            return self._template.render(
                shown,
                tools=list(tools) or None,
                add_generation_prompt=answer is None,
                enable_thinking=thinking,
                preserve_thinking=keep,
            )
        except TemplateError as error:
            raise BenchError(f"the chat template refuses the trace: {error}") from error

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _cut_short(text: str, answer: Message, ends: Iterable[str]) -> str:
    """A turn's text up to the last word of an answer that hit its limit."""
    for end in ends:
        text = text.removesuffix(end)
    if answer.get("tool_calls"):
        return text
    last = str(answer.get("content") or "").strip()
    last = last or str(answer.get("reasoning_content") or "").strip()
    place = text.rfind(last) if last else -1
    return text[: place + len(last)] if place >= 0 else text


def _with_parsed_calls(message: Message) -> dict[str, Any]:
    """Templates read arguments as a mapping; the wire carries them as JSON text."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    parsed = []
    for call in calls:
        function = dict(call["function"])
        if isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"] or "{}")
            except ValueError as error:
                raise BenchError(f"a tool call's arguments are no JSON: {error}") from error
        parsed.append({"type": "function", "function": function})
    return {**message, "tool_calls": parsed}


def end_tokens(folder: Path) -> tuple[int, ...]:
    """The ids that end an answer, as the checkpoint's configs say; empty when they do not."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ids.update([found] if isinstance(found, int) else found or [])
    return tuple(sorted(ids))
