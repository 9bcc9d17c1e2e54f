"""A conversation from Python: it keeps the history and the state, so that a turn prefills only what
is new.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.answer import Delta, answer, prefill
from model.generation import Generation
from model.loading import Model, load_model
from model.prompt import encode_chat
from model.sampling import SamplingParams
from model.thinking import EFFORT_BUDGETS
from model.tokenizer import Tokenizer
from model.turn_memory import TurnMemory

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer. `finish_reason` is "stop" or "length"; times in seconds."""

    text: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    time_to_first_token: float
    seconds: float


def load(path: str | Path | None = None) -> tuple[Model, Tokenizer]:
    """Loads a checkpoint folder or hub id; None is the embedded demo."""
    model = load_model(path)
    return model, model.tokenizer


def load_session(path: str | Path | None = None, **options: Any) -> Session:
    """A session on a freshly loaded model; options as of `Session`."""
    return Session(load_model(path), **options)


def stream(
    model: Model,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    effort: str | None = None,
    max_tokens: int | None = None,
    sampling: SamplingParams | None = None,
) -> Iterator[Delta]:
    """Streams an answer. `prompt` is a user's message, a list of messages, or token ids taken as
    they are.

    Raises ValueError for an unknown effort, a limit below 1, an empty prompt, or one that does not
    fit the context.
    """
    thinking, budget = thinking_of(effort)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    ids = [item for item in prompt if isinstance(item, int)]
    if len(ids) != len(prompt):
        messages = [item for item in prompt if isinstance(item, Mapping)]
        ids = encode_chat(
            tokenizer,
            model.template,
            messages,
            tools=None,
            enable_thinking=thinking,
            preserve_thinking=True,
        ).tokens
    else:
        thinking = False
    room = _room(model, len(ids), max_tokens)
    generation = model.generation(sampling or default_sampling(model))
    prefill(generation, ids[:-1])
    yield from answer(model, generation, ids[-1], thinking=thinking, budget=budget, max_tokens=room)


def generate(model: Model, tokenizer: Tokenizer, prompt: Prompt, **options: Any) -> str:
    """The whole answer's text, without the reasoning; options as of `stream`."""
    deltas = stream(model, tokenizer, prompt, **options)
    return "".join(delta.text for delta in deltas if not delta.reasoning)


def thinking_of(effort: str | None) -> tuple[bool, int | None]:
    """Whether to think, and the budget in tokens; None as effort is the template's default."""
    if effort is None:
        return True, None
    if effort not in EFFORT_BUDGETS:
        raise ValueError(f"effort must be one of {', '.join(EFFORT_BUDGETS)}; got {effort!r}")
    budget = EFFORT_BUDGETS[effort]
    return budget != 0, budget


def default_sampling(model: Model) -> SamplingParams:
    """What the checkpoint's generation_config.json advises."""
    advice = model.config.generation
    if advice.do_sample is False:
        return SamplingParams(temperature=0.0)
    return SamplingParams(
        temperature=1.0 if advice.temperature is None else advice.temperature,
        top_p=1.0 if advice.top_p is None else advice.top_p,
        top_k=advice.top_k or 0,
        min_p=advice.min_p or 0.0,
    )


class Session:
    """A conversation with one model; one answer at a time. `messages` is its history, open to
    reading.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        effort: str | None = None,
        sampling: SamplingParams | None = None,
    ):
        self.model = model
        self.effort = effort
        self.sampling = sampling or default_sampling(model)
        self.messages: list[dict[str, Any]] = []
        if system:
            self.messages.append({"role": "system", "content": system})
        self.last: Reply | None = None
        self._turns = TurnMemory()
        self._generation: Generation | None = None

    def send(self, text: str, **options: Any) -> Reply:
        """Sends a message and waits for the whole reply; options as of `stream`."""
        for _ in self.stream(text, **options):
            pass
        assert self.last is not None  # noqa: S101 - stream sets it before it ends
        return self.last

    def stream(
        self,
        text: str,
        *,
        effort: str | None = None,
        max_tokens: int | None = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[Delta]:
        """Sends a message and yields the answer's pieces; afterwards `last` holds the reply.

        An answer abandoned half-way (the iterator closed) stays in the history as far as it came.
        """
        begin = time.monotonic()
        thinking, budget = thinking_of(effort or self.effort)
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = encode_chat(
            self.model.tokenizer,
            self.model.template,
            messages,
            tools=None,
            enable_thinking=thinking,
            preserve_thinking=True,
            turns=self._turns,
        ).tokens
        room = _room(self.model, len(ids), max_tokens)
        generation, cached = self._continued(ids, sampling or self.sampling)
        prefill(generation, ids[cached:-1])
        first: float | None = None
        parts: dict[bool, list[str]] = {True: [], False: []}
        try:
            for delta in answer(
                self.model, generation, ids[-1], thinking=thinking, budget=budget, max_tokens=room
            ):
                first = first or time.monotonic()
                parts[delta.reasoning].append(delta.text)
                yield delta
        finally:
            generated = generation.tokens[len(ids) :]
            stopped = (
                bool(generated) and generated[-1] in self.model.config.generation.eos_token_ids
            )
            reply = Reply(
                text="".join(parts[False]),
                reasoning="".join(parts[True]),
                finish_reason="stop" if stopped else "length",
                prompt_tokens=len(ids),
                cached_tokens=cached,
                completion_tokens=len(generated),
                time_to_first_token=(first or time.monotonic()) - begin,
                seconds=time.monotonic() - begin,
            )
            self._keep(messages, ids, generated[:-1] if stopped else generated, reply)

    def _continued(self, ids: list[int], sampling: SamplingParams) -> tuple[Generation, int]:
        """The last turn's generation if the prompt extends what it was fed, else a fresh one."""
        generation = self._generation
        if generation is not None:
            fed = generation.tokens
            if len(fed) < len(ids) and ids[: len(fed)] == fed:
                generation.resume(sampling)
                return generation, len(fed)
        self._generation = self.model.generation(sampling)
        return self._generation, 0

    def _keep(
        self, messages: list[dict[str, Any]], ids: list[int], generated: list[int], reply: Reply
    ) -> None:
        message = {"role": "assistant", "content": reply.text, "reasoning_content": reply.reasoning}
        self.messages = [*messages, message]
        self._turns.remember(ids, generated, reply.text, reply.reasoning, None)
        self.last = reply


def _room(model: Model, prompt_tokens: int, max_tokens: int | None) -> int:
    if not prompt_tokens:
        raise ValueError("the prompt is empty")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, or None for no limit; got {max_tokens}")
    room = model.context_length - prompt_tokens
    if room < 1:
        raise ValueError(
            f"the prompt has {prompt_tokens} tokens; the context holds {model.context_length}"
        )
    return room if max_tokens is None else min(room, max_tokens)
