"""A conversation as the token ids that the network reads.

Renders with the checkpoint's own template and knows of it only what rendering shows: which control
tokens it writes, how a turn ends, how an answer begins. Text of messages and tools never becomes a
control token. Turns that this server generated are spliced in as the very ids generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .messages import InvalidPrompt, checked_tools, numbered_messages
from .template import ChatTemplate, TemplateRefusal
from .tokenizer import Tokenizer
from .turn_memory import PrefixDigest, TurnMemory

__all__ = ["InvalidPrompt", "Prompt", "PromptSection", "encode_chat"]

_PRIVATE_USE = range(0x10F000, 0x10F040)


@dataclass(frozen=True, slots=True)
class PromptSection:
    """One rendered turn. kind: "system", "tools", "user message", "assistant message" or "tool
    result"; message: index of the message it, or its beginning, came from, None for tools alone;
    thought_end: token count at which an assistant's thought ends, None without one."""

    kind: str
    message: int | None
    thought_end: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """`tokens`: the whole prompt. `boundaries`: ascending token counts at which turns end, where a
    longer conversation will still agree with this one; the last is the end of the messages.
    `generation_prompt_length`: how many tokens at the end only open the answer. `sections`: what
    ends at each boundary; empty where the template's turns are not the messages."""

    tokens: list[int]
    boundaries: tuple[int, ...]
    generation_prompt_length: int
    sections: tuple[PromptSection, ...] = ()


def encode_text(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> Prompt:
    """A prompt that is no conversation: text, in which control tokens are themselves, or ids.
    Raises InvalidPrompt when there is nothing in it."""
    tokens = (
        tokenizer.encode(prompt, allow_special=True) if isinstance(prompt, str) else list(prompt)
    )
    if not tokens:
        raise InvalidPrompt("The prompt is empty.", "prompt")
    return Prompt(tokens, (len(tokens),), 0)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    enable_thinking: bool,
    preserve_thinking: bool,
    turns: TurnMemory | None = None,
    tenant: str = "",
    continue_final: bool = False,
) -> Prompt:
    """Renders and encodes `messages` (`messages.legal_messages` says what is accepted). With
    `continue_final` the prompt ends in the last message, an assistant's, without the turn's end.

    With `turns`, assistant messages whose thinking is rendered become the ids that were generated
    for them, where remembered for `tenant`. Raises InvalidPrompt for what the client can mend and
    TemplateError when the template itself fails.
    """
    numbered = numbered_messages(messages)
    legal = [message for _, message in numbered]
    definitions = checked_tools(tools)
    try:
        veil = _Veil.over(tokenizer, [legal, definitions])
        veiled_messages, veiled_tools = veil.cover(legal), veil.cover(definitions)
    except RecursionError:
        raise InvalidPrompt("The tools or tool arguments are nested too deeply.") from None

    try:
        whole = template.render(
            veiled_messages,
            tools=veiled_tools,
            add_generation_prompt=not continue_final,
            enable_thinking=enable_thinking,
            preserve_thinking=preserve_thinking,
        )
    except TemplateRefusal as error:
        raise InvalidPrompt(f"The chat template refuses the conversation: {error}") from error
    opening = _opening(template, enable_thinking, preserve_thinking)
    if continue_final or not whole.endswith(opening):
        opening = ""
    rendering = _Rendering.of(tokenizer, veil, whole.removesuffix(opening))
    splicer = None
    answers = [message for message in legal if message["role"] == "assistant"]
    if turns is not None and answers and opening:
        other = _opening(template, not enable_thinking, preserve_thinking)
        splicer = _Splicer(tokenizer, [opening, other], answers, turns, tenant)
    tokens, boundaries = _assemble(rendering, splicer)
    if continue_final and rendering.turns and not rendering.rest:
        ending = len(rendering.turns[-1].ending)
        return Prompt(tokens[:-ending], tuple(boundaries[:-1]), 0)
    opening_ids = tokenizer.encode(opening, allow_special=True)
    kinds = _kinds(numbered, bool(definitions))
    sections: list[PromptSection] = []
    if len(kinds) == len(boundaries):
        close = tokenizer.token_id("</think>")
        starts = [0, *boundaries]
        for (kind, message), start, end in zip(kinds, starts, boundaries, strict=False):
            thought_end = None
            if kind == "assistant message" and close in tokens[start:end]:
                thought_end = start + tokens[start:end].index(close) + 1
            sections.append(PromptSection(kind, message, thought_end))
    return Prompt(tokens + opening_ids, tuple(boundaries), len(opening_ids), tuple(sections))


def _kinds(
    numbered: Sequence[tuple[int, Mapping[str, Any]]], tools: bool
) -> list[tuple[str, int | None]]:
    """Kind and message index of the turns that messages are rendered as: tools and the system
    message share the first, tool results that follow each other share one."""
    kinds: list[tuple[str, int | None]] = []
    if tools and numbered[0][1]["role"] != "system":
        kinds.append(("tools", None))
    before = None
    for index, message in numbered:
        role = message["role"]
        if role == "tool" and before != "tool":
            kinds.append(("tool result", index))
        elif role != "tool":
            kinds.append((role if role == "system" else f"{role} message", index))
        before = role
    return kinds


def _opening(template: ChatTemplate, enable_thinking: bool, preserve_thinking: bool) -> str:
    """The generation prompt, as the shortest conversation shows it."""
    closed, opened = (
        template.render(
            [{"role": "user", "content": "x"}],
            tools=None,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=enable_thinking,
            preserve_thinking=preserve_thinking,
        )
        for add_generation_prompt in (False, True)
    )
    return opened.removeprefix(closed) if opened.startswith(closed) else ""


class _Veil:
    """Hides from the template, and from the search for control tokens, the characters of a client's
    strings that control tokens begin or end with. The template trims, splits and quotes the rest as
    ever; what it writes in clear is its own."""

    def __init__(self, cover: dict[int, str]) -> None:
        self._cover = cover
        self._lift = {ord(hidden): chr(shown) for shown, hidden in cover.items()}

    @classmethod
    def over(cls, tokenizer: Tokenizer, values: object) -> _Veil:
        """A veil made of private-use characters that `values` do not contain; InvalidPrompt when
        the few that are tried are all in use."""
        edges = sorted({edge for text in tokenizer.controls for edge in (text[0], text[-1])})
        strings = list(_strings(values))
        free = (
            chr(code) for code in _PRIVATE_USE if not any(chr(code) in text for text in strings)
        )
        try:
            return cls({ord(edge): next(free) for edge in edges})
        except (StopIteration, RuntimeError):
            raise InvalidPrompt("The text uses too many private-use characters.") from None

    def cover(self, value: Any) -> Any:
        """`value` with all strings in it, keys too, veiled."""
        if isinstance(value, str):
            for shown, hidden in self._cover.items():
                value = value.replace(chr(shown), hidden)
            return value
        if isinstance(value, Mapping):
            # A role is compared by the template and checked already; it holds no such character.
            return {self.cover(key): self.cover(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.cover(item) for item in value]
        return value

    def lift(self, text: str) -> str:
        """`text` as the client wrote it."""
        for hidden, shown in self._lift.items():
            text = text.replace(chr(hidden), shown)
        return text


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One closed turn: its tokens without and with the end, and its rendered text."""

    text: str
    tokens: list[int]
    ending: list[int]


@dataclass(frozen=True, slots=True)
class _Rendering:
    """The rendered messages cut behind every turn's end; `rest` follows the last one."""

    turns: list[_Turn]
    rest: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer, veil: _Veil, body: str) -> _Rendering:
        """Encodes the text between control tokens piece by piece: those always split it, so the ids
        are those of the whole. A turn ends as the whole rendering ends: `<|im_end|>\\n`."""
        literals = tokenizer.control_pattern.findall(body)
        pieces = tokenizer.control_pattern.split(body)
        ids = tokenizer.encode_pieces([veil.lift(piece) for piece in pieces])
        if not literals:
            return cls([], ids[0])
        ending = (literals[-1], pieces[-1])
        turns: list[_Turn] = []
        text, tokens = [pieces[0]], list(ids[0])
        for index, literal in enumerate(literals):
            control, following = tokenizer.controls[literal].id, ids[index + 1]
            if (literal, pieces[index + 1]) == ending:
                turns.append(_Turn("".join(text), tokens, [control, *following]))
                text, tokens = [], []
            else:
                text += (literal, pieces[index + 1])
                tokens += (control, *following)
        return cls(turns, tokens)


class _Splicer:
    """Replaces rendered assistant turns by the ids that were generated for them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        openings: Sequence[str],
        answers: Sequence[Mapping[str, Any]],
        memory: TurnMemory,
        tenant: str,
    ) -> None:
        self._openings = {
            text: tokenizer.encode(text, allow_special=True) for text in openings if text
        }
        self._special = {c.id for c in tokenizer.controls.values() if c.special}
        second_control = [m.start() for m in tokenizer.control_pattern.finditer(openings[0])][1:2]
        self._header = openings[0][: second_control[0]] if second_control else openings[0]
        self._answers = answers
        self._memory = memory
        self._tenant = tenant
        self._seen = 0

    def matches(self, turns: Sequence[_Turn]) -> bool:
        """Whether the rendering has one assistant turn for each assistant message."""
        return sum(turn.text.startswith(self._header) for turn in turns) == len(self._answers)

    def splice(self, before: PrefixDigest, turn: _Turn) -> list[int] | None:
        """The remembered tokens of `turn` up to its ending; None when it is not the server's own,
        not remembered, or rendered without the thinking it was generated with."""
        if not turn.text.startswith(self._header):
            return None
        answer = self._answers[self._seen]
        self._seen += 1
        for text, opening in self._openings.items():
            if not turn.text.startswith(text):
                continue
            generated = self._memory.recall(
                before.after(opening),
                answer["content"],
                answer["reasoning_content"],
                answer.get("tool_calls"),
                self._tenant,
            )
            if generated is not None:
                if generated and generated[-1] in self._special:
                    generated.pop()
                return opening + generated
        return None


def _assemble(rendering: _Rendering, splicer: _Splicer | None) -> tuple[list[int], list[int]]:
    """The tokens of the rendered messages, and the counts at which turns end."""
    if splicer is not None and not splicer.matches(rendering.turns):
        splicer = None
    tokens: list[int] = []
    boundaries: list[int] = []
    digest = PrefixDigest()
    for turn in rendering.turns:
        spliced = splicer.splice(digest, turn) if splicer else None
        closed = (turn.tokens if spliced is None else spliced) + turn.ending
        tokens += closed
        digest.update(closed)
        boundaries.append(len(tokens))
    if rendering.rest:
        tokens += rendering.rest
        boundaries.append(len(tokens))
    return tokens, boundaries
