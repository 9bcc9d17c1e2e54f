"""The engine as the dialects see it, with everything that goes through it counted.

Events are looked at where they are read, on the event loop; the worker thread has no part in it.
Knows what events mean for figures and for a request's line in the log; not how figures are told.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from server.api.errors import ENGINE_ERRORS
from server.api.serving import EventSource, Serving
from server.engine import GenerationRequest, Health, ModelInfo, Rendered
from server.engine.durations import Durations
from server.engine.errors import EngineError
from server.engine.events import (
    ContentDelta,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Started,
    ToolCallDelta,
)
from server.metrics import ENGINE, Metrics
from server.request_record import RequestRecord, current

log = logging.getLogger(__name__)

FLUSH_S = 0.5  # how long tokens of a running answer may wait to be counted
LOGGED_CHARACTERS = 8192


class Metered:
    """`engine`, its requests counted in `metrics` and noted in the record of the HTTP request they
    are made for. log_prompts: whether what people write goes to the log."""

    def __init__(self, engine: Serving, metrics: Metrics, *, log_prompts: bool = False) -> None:
        self._engine = engine
        self._metrics = metrics
        self._log_prompts = log_prompts

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    def health(self) -> Health:
        return self._engine.health()

    def durations(self) -> Mapping[str, Durations]:
        return self._engine.durations()

    async def submit(self, request: GenerationRequest) -> EventSource:
        record, began = current.get(), time.monotonic()
        model = self._engine.info.id
        if record is not None:
            record.model = model
        if self._log_prompts:
            _log_prompt(request, record)
        try:
            source = await self._engine.submit(request)
        except EngineError as error:
            code = _code(error)
            self._metrics.refused.labels(model, ENGINE, code).inc()
            if record is not None:
                record.finish = code
            raise
        return MeteredStream(source, self._metrics, model, record, request.n, began)

    async def render(self, request: GenerationRequest) -> Rendered:
        return await self._engine.render(request)

    async def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        return await self._engine.tokenize(text, special=special)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return await self._engine.detokenize(tokens)

    async def token_texts(self, tokens: Sequence[int]) -> list[str]:
        return await self._engine.token_texts(tokens)


class MeteredStream:
    """The events of `source`, counted as they are read. began: seconds of the monotonic clock."""

    def __init__(
        self,
        source: EventSource,
        metrics: Metrics,
        model: str,
        record: RequestRecord | None,
        choices: int,
        began: float,
    ) -> None:
        self._source = source
        self._events = aiter(source)
        self._metrics = metrics
        self._labels = (model, ENGINE)
        self._record = record
        self._open = choices
        self._began = began
        self._ended = False
        self._heard: dict[int, float] = {}  # when a choice's last piece came
        self._tokens: dict[int, int] = {}  # of each choice so far
        self._counted = 0  # tokens that the figures have
        self._counted_at = began
        self._gap = metrics.gap.labels(*self._labels)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._events)
        self._see(event)
        return event

    def cancel(self) -> None:
        self._source.cancel()
        self._end("abort")

    def _see(self, event: Event) -> None:
        if isinstance(event, (ContentDelta, ReasoningDelta, ToolCallDelta)):
            self._piece(event.choice, event.tokens)
        elif isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Finished):
            self._finished(event)
        elif isinstance(event, Failed):
            code = _code(event.error)
            self._metrics.failed.labels(*self._labels, code).inc()
            self._end("error", code)

    def _started(self, event: Started) -> None:
        figures, labels = self._metrics, self._labels
        figures.prompt_tokens.labels(*labels).inc(event.prompt_tokens)
        figures.cache_queries.labels(*labels).inc(event.prompt_tokens)
        figures.cache_hits.labels(*labels).inc(event.cached_tokens)
        figures.request_prompt_tokens.labels(*labels).observe(event.prompt_tokens)
        outcome = "extended" if event.cached_tokens else "new"
        if event.cache is not None and event.cache.change is not None:
            outcome = event.cache.change
        figures.cache_outcomes.labels(*labels, outcome).inc()
        if self._record is not None:
            self._record.add_prompt(event.prompt_tokens, event.cached_tokens)

    def _piece(self, choice: int, tokens: int) -> None:
        now = time.monotonic()
        before = self._heard.get(choice)
        self._heard[choice] = now
        self._tokens[choice] = max(tokens, self._tokens.get(choice, 0))
        if before is not None:
            self._gap.observe(now - before)
        elif len(self._heard) == 1:
            self._metrics.first_token.labels(*self._labels).observe(now - self._began)
            if self._record is not None:
                self._record.first_piece()
        if now - self._counted_at > FLUSH_S:
            self._count(now)

    def _count(self, now: float) -> None:
        tokens = sum(self._tokens.values())
        self._metrics.generation_tokens.labels(*self._labels).inc(tokens - self._counted)
        self._counted, self._counted_at = tokens, now

    def _finished(self, event: Finished) -> None:
        figures, labels, usage, times = self._metrics, self._labels, event.usage, event.timings
        self._tokens[event.choice] = usage.completion_tokens
        figures.finished.labels(*labels, event.reason).inc()
        figures.request_generation_tokens.labels(*labels).observe(usage.completion_tokens)
        figures.reasoning_tokens.labels(*labels).inc(usage.reasoning_tokens)
        figures.decode_time.labels(*labels).observe(times.decode_s)
        if usage.thinking_cut:
            figures.thinking_cuts.labels(*labels).inc()
        if usage.completion_tokens > 1:
            mean = times.decode_s / (usage.completion_tokens - 1)
            figures.per_token.labels(*labels).observe(mean)
        self._open -= 1
        if self._open:
            return
        figures.queue_time.labels(*labels).observe(times.queue_s)
        figures.prefill_time.labels(*labels).observe(times.prefill_s)
        if self._record is not None:
            self._record.queue_s = (self._record.queue_s or 0.0) + times.queue_s
        self._end(None, event.reason)

    def _end(self, reason: str | None, told: str | None = None) -> None:
        """The last thing that is counted; `reason` is that of all choices that are still open."""
        if self._ended:
            return
        self._ended = True
        now = time.monotonic()
        self._count(now)
        if reason is not None:
            self._metrics.finished.labels(*self._labels, reason).inc(self._open)
        if reason != "abort":
            self._metrics.latency.labels(*self._labels).observe(now - self._began)
        if self._record is not None:
            self._record.finish = told or reason
            self._record.add_completion(self._counted)


def _code(error: EngineError) -> str:
    kinds = (ENGINE_ERRORS[t] for t in type(error).__mro__ if t in ENGINE_ERRORS)
    kind = next(kinds, None)
    return (kind.code if kind else None) or "internal_error"


def _log_prompt(request: GenerationRequest, record: RequestRecord | None) -> None:
    asked = request.messages if request.prompt is None else request.prompt
    text = json.dumps(asked, ensure_ascii=False, default=str)[:LOGGED_CHARACTERS]
    log.info("a prompt", extra={"fields": {"id": record.id if record else "", "prompt": text}})
