"""A request in the making: one prefill, then its choices token by token.

Drives the model's generations and the prompt cache for one request; whose turn it is, threads and
failures are the worker's. Every call comes from the worker thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.thinking import ThinkingBudget
from server.engine.answer import Answer, Limits
from server.engine.errors import StepFailed
from server.engine.events import Finished, PrefillProgress, Started, Timings, Usage
from server.engine.job import Job
from server.engine.ports import Backend, Generation, Model, RecurrentSnapshot
from server.engine.prompt_cache import PromptCache
from server.output.parser import OutputParser

LAST_SNAPSHOTS = 3


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every running request shares. closing: ids that close a thought."""

    model: Model
    backend: Backend
    cache: PromptCache
    turns: Any
    closing: tuple[int, ...]
    clock: Callable[[], float]


@dataclass(eq=False, slots=True)
class _Choice:
    answer: Answer
    generation: Generation
    first_token_at: float | None = None


class Running:
    """One admitted request. begin(), then prefill() until `prefilled`, then step() until
    `finished`; close() at any point frees everything."""

    def __init__(self, job: Job, shop: Workshop) -> None:
        self.job = job
        self._shop = shop
        self._tokens = job.prompt.tokens
        self._last = len(self._tokens) - 1  # the last token goes through step(), not prefill()
        self._cached = 0
        self._began_at = shop.clock()
        self._prefilled_at = self._began_at
        self._generation: Generation | None = None
        self._choices: list[_Choice] = []
        self._open = False
        self._turn = 0
        # Kept back until the first token proves the logits finite: a bad state is never cached.
        self._snapshots: list[RecurrentSnapshot] = []
        self._save_at: list[int] = []
        seed = job.request.sampling.seed
        self._seed = random.getrandbits(32) if seed is None else seed

    @property
    def prefilled(self) -> bool:
        """Whether only the prompt's last token is left to feed."""
        return self._open

    @property
    def finished(self) -> bool:
        """Whether every choice is complete."""
        return self._open and not self._choices

    def begin(self) -> None:
        """Takes what the prompt cache has and tells the reader."""
        shop = self._shop
        generation = self._generation = shop.model.generation(self._sampling(0))
        hit = shop.cache.lookup(self._tokens)
        if hit is not None:
            generation.restore(hit.spans, hit.snapshot, self._tokens[: hit.length])
            self._cached = hit.length
        self._save_at = save_points(self.job.prompt.boundaries, self._cached, self._last)
        self.job.mailbox.put(Started(len(self._tokens), self._cached))
        if self._cached >= self._last:
            self._open_choices(generation)

    def prefill(self, tokens: int) -> int:
        """Feeds at most `tokens` prompt tokens, less where a snapshot is due; returns how many."""
        generation = self._generation
        if generation is None:
            raise RuntimeError("the prompt is fed already")
        start = generation.position
        end = min(start + tokens, self._last, *self._save_at[:1])
        generation.prefill(self._tokens[start:end])
        if self._save_at and end == self._save_at[0]:
            self._save_at.pop(0)
            self._snapshots.append(generation.recurrent())
        self.job.mailbox.put(PrefillProgress(end, len(self._tokens)))
        if end == self._last:
            self._open_choices(generation)
        return end - start

    def step(self) -> None:
        """One token for the choice whose turn it is."""
        choice = self._choices[self._turn % len(self._choices)]
        answer, generation = choice.answer, choice.generation
        first = not answer.tokens
        token = generation.step(self._tokens[-1]) if first else generation.step()
        if token < 0:
            raise StepFailed("The model's output was not finite.")
        if first:
            choice.first_token_at = self._shop.clock()
        events = answer.take(token)
        if answer.must_close():
            generation.force(answer.limits.closing)
            events += answer.close()
        for event in events:
            self.job.mailbox.put(event)
        if first:
            self._keep_snapshots(generation)
        if answer.reason is None:
            self._turn += 1
        else:
            self._finish(choice)

    def close(self) -> None:
        """Frees the state of whatever still runs."""
        generations = [choice.generation for choice in self._choices]
        if self._generation is not None:
            generations.append(self._generation)
        self._choices, self._generation, self._snapshots = [], None, []
        for generation in generations:
            generation.release()

    def _sampling(self, choice: int) -> Any:
        return self._shop.backend.seeded(self.job.request.sampling, (self._seed + choice) % 2**64)

    def _open_choices(self, generation: Generation) -> None:
        self._generation, self._open = None, True
        self._choices.append(_Choice(self._answer(0), generation))
        count = self.job.request.n
        if count > 1:
            head = self._tokens[: self._last]
            spans = [generation.span(0, self._last)] if head else []
            snapshot = generation.recurrent()
            for index in range(1, count):
                other = self._shop.model.generation(self._sampling(index))
                self._choices.append(_Choice(self._answer(index), other))
                if head:
                    other.restore(spans, snapshot, head)
        self._prefilled_at = self._shop.clock()

    def _answer(self, index: int) -> Answer:
        request, model = self.job.request, self._shop.model
        room = model.context_length - len(self._tokens)
        budget = request.thinking.budget if request.thinks else None
        limits = Limits(
            tokens=room if request.max_tokens is None else min(room, request.max_tokens),
            eos=frozenset(model.config.generation.eos_token_ids),
            think_end=model.tokenizer.token_id("</think>"),
            budget=None if budget is None else ThinkingBudget(budget),
            closing=self._shop.closing,
        )
        parser = OutputParser(thinking=request.thinks, stop=request.stop, tools=request.tools)
        return Answer(index, limits, model.tokenizer.detokenizer(), parser, request.thinks)

    def _keep_snapshots(self, generation: Generation) -> None:
        snapshots, self._snapshots = self._snapshots, []
        for snapshot in snapshots:
            self._keep(generation, self._tokens[: snapshot.position], snapshot)

    def _keep(self, generation: Generation, tokens: list[int], snapshot: RecurrentSnapshot) -> None:
        cache = self._shop.cache
        start = cache.anchor(tokens, len(tokens))
        span = generation.span(start, len(tokens)) if start < len(tokens) else None
        cache.insert(tokens, start, span, snapshot)

    def _finish(self, choice: _Choice) -> None:
        answer, now = choice.answer, self._shop.clock()
        if answer.ended_by_eos:
            self._shop.turns.remember(
                self._tokens, answer.tokens, answer.content, answer.reasoning, answer.tool_calls
            )
        first = now if choice.first_token_at is None else choice.first_token_at
        usage = Usage(
            prompt_tokens=len(self._tokens),
            completion_tokens=len(answer.tokens),
            reasoning_tokens=answer.reasoning_tokens,
            cached_tokens=self._cached,
            thinking_cut=answer.thinking_cut,
        )
        timings = Timings(
            queue_s=self._began_at - self.job.submitted_at,
            prefill_s=self._prefilled_at - self._began_at,
            ttft_s=first - self.job.submitted_at,
            decode_s=now - first,
        )
        if answer.reason is None:
            raise RuntimeError("the answer is not complete")
        self._choices.remove(choice)
        self.job.mailbox.put(Finished(answer.choice, answer.reason, usage, timings))
        if not self._choices:
            self.job.mailbox.close()
        try:
            if answer.ended_by_eos:
                choice.generation.settle()
                fed = choice.generation.tokens
                self._keep(choice.generation, fed, choice.generation.recurrent())
        finally:
            choice.generation.release()


def save_points(boundaries: tuple[int, ...], cached: int, last: int) -> list[int]:
    """Token counts at which to take a snapshot while feeding tokens [cached, last): the end of the
    prompt's head, and the last few message ends."""
    wanted = [*boundaries[:1], *boundaries[1:][-LAST_SNAPSHOTS:]]
    return [end for end in wanted if cached < end <= last]
