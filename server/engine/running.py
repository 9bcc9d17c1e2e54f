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
from server.engine.cache_report import cache_report
from server.engine.errors import GrammarDeadEnd, StepFailed
from server.engine.events import (
    Finished,
    PrefillProgress,
    PromptLogprobs,
    Started,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from server.engine.job import Job
from server.engine.ports import (
    Backend,
    Constraint,
    Decoder,
    Facts,
    Generation,
    KVSpan,
    Model,
    RecurrentSnapshot,
    Tokenizer,
    TokenScores,
)
from server.engine.prompt_cache import PromptCache
from server.engine.save_points import fixed_chunk_end, save_points
from server.engine.turn_journal import TurnJournal
from server.output.parser import OutputParser
from server.output.plain import PlainText

NOT_FINITE = "The model's output was not finite."
RECOVERY_CHUNK = 256
SCORED_CHUNK = 128  # logits of all its places are held at once


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every running request shares. closing: ids that close a thought. journal: where turns
    are written down for the next process. deterministic: prompts are cut at the same tokens
    whatever else runs, and states that decoding left are not reused."""

    model: Model
    facts: Facts
    backend: Backend
    cache: PromptCache
    decoder: Decoder
    turns: Any
    closing: tuple[int, ...]
    clock: Callable[[], float]
    journal: TurnJournal | None = None
    deterministic: bool = False


@dataclass(eq=False, slots=True)
class _Choice:
    answer: Answer
    generation: Generation
    constraint: Constraint | None = None
    first_token_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Saved:
    """The state after the prompt's first `snapshot.position` tokens, and the KV since `start`."""

    start: int
    span: KVSpan
    snapshot: RecurrentSnapshot


class Running:
    """One admitted request. begin(), then prefill() until `prefilled`, then its `rows` are members
    of the decoder and their tokens go to take() until `finished`; close() at any point frees
    everything."""

    def __init__(self, job: Job, shop: Workshop) -> None:
        self.job = job
        self._shop = shop
        self._tokens = job.prompt.tokens
        self._last = len(self._tokens) - 1  # fed by the first decode step
        self._cached = 0
        self._began_at = shop.clock()
        self._prefilled_at = self._began_at
        self._generation: Generation | None = None
        self._choices: dict[Generation, _Choice] = {}
        self._open = self._told = False
        # Kept back until the first token proves the logits finite: a bad state is never cached.
        self._saved: list[_Saved] = []
        self._save_at: list[int] = []
        self._prompt_scores: list[TokenLogprob | None] = []
        seed = job.request.sampling.seed
        self._seed = random.getrandbits(32) if seed is None else seed
        self._last_answer: Answer | None = None

    @property
    def answer(self) -> Answer | None:
        """The choice that was complete last."""
        return self._last_answer

    @property
    def left(self) -> int:
        """Prompt tokens still to be fed by prefill()."""
        return 0 if self._generation is None else self._last - self._generation.position

    @property
    def cached(self) -> int:
        """Prompt tokens that the cache had."""
        return self._cached

    @property
    def prefilled(self) -> bool:
        """Whether the choices decode."""
        return self._open

    @property
    def rows(self) -> tuple[Generation, ...]:
        """The generations that decode."""
        return tuple(self._choices)

    @property
    def finished(self) -> bool:
        """Whether every choice is complete."""
        return self._open and not self._choices

    @property
    def told(self) -> bool:
        """Whether the reader knows that the request has begun."""
        return self._told

    def begin(self, *, told: bool = False) -> None:
        """Takes what the prompt cache has and tells the reader, unless it was `told` before."""
        shop, prompt, tenant = self._shop, self.job.prompt, self.job.request.tenant
        generation = self._generation = shop.model.generation(self._sampling(0))
        scored = self.job.request.prompt_logprobs is not None  # computed, not remembered
        hit = None if scored else shop.cache.lookup(self._tokens, tenant)
        common = shop.cache.common(self._tokens, tenant)
        extends = shop.cache.anchor(self._tokens, common, tenant) == common
        if hit is not None:
            generation.restore(hit.spans, hit.snapshot, self._tokens[: hit.length])
            self._cached = hit.length
        branch = None if extends else common
        self._save_at = save_points(prompt.boundaries, self._cached, self._last, branch)
        report = cache_report(
            prompt, reused=self._cached, common=max(common, self._cached), extends=extends
        )
        if not told:
            self.job.mailbox.put(Started(len(self._tokens), self._cached, report))
        self._told = True
        if self._cached >= self._last:
            self._open_choices(generation)

    def prefill(self, tokens: int) -> int:
        """Feeds at most `tokens` prompt tokens, less where a snapshot is due; returns how many."""
        generation = self._generation
        if generation is None:
            raise RuntimeError("the prompt is fed already")
        start = generation.position
        end = min(start + tokens, self._last, *self._save_at[:1])
        if self._shop.deterministic:
            end = fixed_chunk_end(self.job.prompt.boundaries, start, self._last)
        if self.job.request.prompt_logprobs is None:
            generation.prefill(self._tokens[start:end])
        else:
            end = min(end, start + SCORED_CHUNK)
            self._score(generation, start, end)
        if self._save_at and end == self._save_at[0]:
            self._save_at.pop(0)
            self._save(generation, end)
        self.job.mailbox.put(PrefillProgress(end, len(self._tokens)))
        if end == self._last:
            self._open_choices(generation)
        return end - start

    def _score(self, generation: Generation, start: int, end: int) -> None:
        top = self.job.request.prompt_logprobs or 0
        following = self._tokens[start + 1 : end + 1]
        found = generation.score(self._tokens[start:end], following, top)
        self._prompt_scores += map(self._logprob, following, found)

    def take(self, generation: Generation, token: int) -> bool:
        """The next token of one of `rows`; -1 for logits that were not finite. Returns whether that
        row is done with it."""
        if token < 0:
            raise StepFailed(NOT_FINITE)
        choice = self._choices[generation]
        answer = choice.answer
        first = choice.first_token_at is None
        if first:
            choice.first_token_at = self._shop.clock()
        if choice.constraint is not None and choice.constraint.failure is not None:
            raise GrammarDeadEnd(choice.constraint.failure)
        events = answer.take(token, self._logprob(token, generation.scored))
        if answer.must_close():
            generation.force(answer.limits.closing)
            events += answer.close()
        for event in events:
            self.job.mailbox.put(event)
        if first:
            self._keep_saved()
        if answer.reason is None:
            return False
        self._finish(choice)
        return True

    def recover(self, go_on: Callable[[], bool]) -> None:
        """After the states of its rows were lost: computes them anew, and they go on decoding.
        `go_on` is asked before every chunk; once it says no, nobody waits for the rest."""
        for lost, choice in list(self._choices.items()):
            row, tokens = lost.recovered()
            del self._choices[lost]
            lost.release()
            self._choices[row] = choice
            choice.generation = row
            for start in range(0, len(tokens), RECOVERY_CHUNK):
                if not go_on():
                    return
                row.prefill(tokens[start : start + RECOVERY_CHUNK])
            self._shop.decoder.rejoin(row)

    def close(self) -> None:
        """Frees the state of whatever still runs."""
        generations = list(self._choices)
        if self._generation is not None:
            generations.append(self._generation)
        self._choices, self._generation, self._saved = {}, None, []
        for generation in generations:
            self._shop.decoder.leave(generation)
            generation.release()

    def _sampling(self, choice: int) -> Any:
        return self._shop.backend.seeded(self.job.request.sampling, (self._seed + choice) % 2**64)

    def _open_choices(self, generation: Generation) -> None:
        others = [generation.fork(self._sampling(i)) for i in range(1, self.job.request.n)]
        self._generation, self._open = None, True
        constraint, top = self.job.constraint, self.job.request.logprobs
        if self.job.request.prompt_logprobs is not None:
            self.job.mailbox.put(PromptLogprobs((None, *self._prompt_scores)))
        for index, row in enumerate([generation, *others]):
            rules = None if constraint is None else constraint.copy()
            self._choices[row] = _Choice(self._answer(index), row, rules)
        for row, choice in self._choices.items():
            self._shop.decoder.join(row, self._tokens[-1], constraint=choice.constraint, top=top)
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
        raw = request.prompt is not None
        tools = request.callable_tools
        parser = (
            PlainText(request.stop)
            if raw
            else OutputParser(
                thinking=request.thinks,
                stop=request.stop,
                tools=tools,
                structured=request.grammar is not None,
            )
        )
        detokenizer = model.tokenizer.detokenizer()
        return Answer(index, limits, detokenizer, parser, request.thinks, plain=raw)

    def _logprob(self, token: int, scores: TokenScores | None) -> TokenLogprob | None:
        if scores is None:
            return None
        tokenizer = self._shop.model.tokenizer
        top = tuple(TopLogprob(*_spelled(tokenizer, t), lp, t) for t, lp in scores.top)
        return TokenLogprob(*_spelled(tokenizer, token), scores.logprob, token, top)

    def _save(self, generation: Generation, end: int) -> None:
        """Copies the state after `end` tokens, and the KV that the cache lacks up to there."""
        tokens = self._tokens[:end]
        start = self._shop.cache.anchor(tokens, end, self.job.request.tenant)
        if self._saved:
            start = max(start, self._saved[-1].snapshot.position)
        self._saved.append(_Saved(start, generation.span(start, end), generation.recurrent()))

    def _keep_saved(self) -> None:
        saved, self._saved = self._saved, []
        for item in saved:
            self._keep(self._tokens[: item.snapshot.position], item)

    def _keep(self, tokens: list[int], item: _Saved) -> None:
        """Into the cache, unless what it continues has gone from there since."""
        cache, tenant = self._shop.cache, self.job.request.tenant
        held = cache.anchor(tokens, len(tokens), tenant)
        if held == len(tokens):
            cache.insert(tokens, held, None, item.snapshot, tenant)
        elif held == item.start:
            cache.insert(tokens, held, item.span, item.snapshot, tenant)

    def _finish(self, choice: _Choice) -> None:
        answer, generation = choice.answer, choice.generation
        now = self._shop.clock()
        plain = self.job.request.prompt is not None or self.job.request.continue_final
        if answer.reusable and not plain:
            turn = self._shop.turns.remember(
                self._tokens,
                answer.tokens,
                answer.content,
                answer.reasoning,
                answer.tool_calls,
                self.job.request.tenant,
            )
            if self._shop.journal is not None:
                self._shop.journal.add(turn.to_json())
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
        del self._choices[generation]
        self._last_answer = answer
        self.job.mailbox.put(Finished(answer.choice, answer.reason, usage, timings, answer.stop))
        if not self._choices:
            self.job.mailbox.close()
        self._shop.decoder.leave(generation)
        try:
            if answer.reusable and not self._shop.deterministic:
                self._keep_turn(generation)
        finally:
            generation.release()

    def _keep_turn(self, generation: Generation) -> None:
        """Keeps the state at the end of the answer, where the next turn's prompt goes on."""
        generation.settle()
        fed = generation.tokens
        start = self._shop.cache.anchor(fed, len(fed), self.job.request.tenant)
        if start < len(fed):
            item = _Saved(start, generation.span(start, len(fed)), generation.recurrent())
            self._keep(fed, item)


def _spelled(tokenizer: Tokenizer, token: int) -> tuple[str, bytes]:
    """A token's text and bytes; those of a control token as it is written."""
    data = tokenizer.token_bytes(token) or tokenizer.spelled([token]).encode()
    return data.decode("utf-8", "replace"), data
