"""What a request sends back while it runs: one event stream for every dialect.

Order: ModelLoading where the weights were not there, Started, then any number of PrefillProgress,
PromptLogprobs where asked for, then deltas of each choice, then one Finished per choice. Failed can
come at any point, is always the last event, and ends every choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from server.engine.errors import EngineError

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one choice. `reasoning_tokens` are part of `completion_tokens`.

    cached_tokens: prompt tokens taken from the prompt cache instead of computed.
    thinking_cut: the engine closed the reasoning because its budget was spent.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    thinking_cut: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. queue_s: submit to first work; prefill_s: from there to the prompt being ready to
    sample; ttft_s: submit to the first token; decode_s: first token to the last."""

    queue_s: float
    prefill_s: float
    ttft_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What the prompt cache did for one request, in tokens.

    reused: taken from the cache; prefilled: computed; common: longest prefix shared with anything
    cached. message: index, among the request's messages, of the first that differs from what was
    cached, None when nothing diverged (a new prompt, or one that only adds); change: a short word
    for what differs there ("system", "tools", "user message", "evicted", ...).
    """

    reused: int
    prefilled: int
    common: int
    message: int | None = None
    change: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The request left the queue; `cached_tokens` of its `prompt_tokens` need no prefill."""

    prompt_tokens: int
    cached_tokens: int
    cache: CacheReport | None = None


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done` of `total` prompt tokens are in the state (cached ones count as done)."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ModelLoading(PrefillProgress):
    """`done` of `total` bytes of the weights are back, which an idle server had freed. Comes before
    Started."""


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """A token that could have stood somewhere: its text (U+FFFD where its bytes are not a whole
    character), its bytes, the natural logarithm of its probability, its id."""

    token: str
    bytes: bytes
    logprob: float
    id: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that stands somewhere, as TopLogprob, and the most likely ones at its place, most
    likely first. Probabilities are the model's own: before penalties, temperature, filters and
    grammars."""

    token: str
    bytes: bytes
    logprob: float
    id: int
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """One for every token of the prompt; the first has nothing before it, and is None."""

    items: tuple[TokenLogprob | None, ...]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More text of choice `choice`'s reasoning. tokens: of the whole choice up to here."""

    choice: int
    text: str
    tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More text of choice `choice`'s answer. logprobs: of the tokens that came with it, where asked
    for; `text` may be empty when a token adds none. tokens: of the whole choice up to here."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of tool call `index`: `id` and `name` come in its first delta only, then pieces of
    `arguments` that join to one JSON object. tokens: of the whole choice up to here."""

    choice: int
    index: int
    id: str | None
    name: str | None
    arguments: str
    tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """Choice `choice` is complete. stop: the stop string that ended it, if one did."""

    choice: int
    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended with an error; nothing follows."""

    error: EngineError


Event = (
    Started
    | PrefillProgress
    | PromptLogprobs
    | ReasoningDelta
    | ContentDelta
    | ToolCallDelta
    | Finished
    | Failed
)
