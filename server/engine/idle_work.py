"""What the worker does while nobody asks for anything, in small pieces: states that the next turns
will need, and writing the prompt cache to disk.

Where a template is told to drop earlier reasoning, the last answer comes back without its thought,
or without the empty block in its place, so the state after the answer is not where the next prompt
goes on. That prompt's beginning is known already: it is rendered and fed here, so that the next
turn prefills only its new message.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from server.engine.request import GenerationRequest
from server.engine.running import Running, Workshop

log = logging.getLogger(__name__)

CHUNK = 128
MOST_WAITING = 16


@dataclass(frozen=True, slots=True)
class _Ended:
    """A turn whose next prompt begins differently: its request, and the answer as it comes back."""

    request: GenerationRequest
    content: str


class IdleWork:
    """Used by the worker thread only."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._ended: deque[_Ended] = deque(maxlen=MOST_WAITING)
        self._feeding: tuple[Any, list[int], str] | None = None  # generation, tokens, tenant
        self._disk = True

    @property
    def waiting(self) -> bool:
        """Whether there is something to do."""
        return bool(self._ended) or self._feeding is not None or self._disk

    def after(self, running: Running) -> None:
        """A request was answered."""
        self._disk = True
        request, answer = running.job.request, running.answer
        if self._shop.deterministic or answer is None or not answer.ended_by_eos:
            return
        if request.preserve_thinking is not False or request.prompt is not None:
            return
        if request.n == 1 and not answer.tool_calls and not request.continue_final:
            self._ended.append(_Ended(request, answer.content))

    def work(self) -> None:
        """One piece of it."""
        if self._feeding is not None:
            self._feed()
        elif self._ended:
            self._begin(self._ended.popleft())
        elif self._shop.journal is not None and self._shop.journal.waiting:
            self._shop.journal.write()
        else:
            self._disk = self._shop.cache.idle_work()

    def save_a_piece(self) -> None:
        """Something small for the disk, on a server that is not idle. Never waits, never raises."""
        try:
            if self._shop.journal is not None:
                self._shop.journal.write()
            self._shop.cache.idle_work(0.0)
        except Exception:
            log.exception("the prompt cache could not be saved")

    def give_up(self) -> None:
        """Forgets what is under way."""
        if self._feeding is not None:
            self._feeding[0].release()
        self._feeding = None
        self._disk = False

    def _begin(self, ended: _Ended) -> None:
        shop, request = self._shop, ended.request
        answer = {"role": "assistant", "content": ended.content}
        following = [*request.messages, answer, {"role": "user", "content": "-"}]
        prompt = shop.backend.encode(shop.facts, replace(request, messages=following), shop.turns)
        end = prompt.boundaries[-2]
        tokens = prompt.tokens[:end]
        hit = shop.cache.lookup(prompt.tokens[: end + 1], request.tenant)
        if hit is not None and hit.length >= end:
            return
        generation = shop.model.generation(request.sampling)
        if hit is not None:
            generation.restore(hit.spans, hit.snapshot, tokens[: hit.length])
        self._feeding = generation, tokens, request.tenant

    def _feed(self) -> None:
        if self._feeding is None:
            return
        generation, tokens, tenant = self._feeding
        generation.prefill(tokens[generation.position : generation.position + CHUNK])
        if generation.position < len(tokens):
            return
        cache = self._shop.cache
        start = cache.anchor(tokens, len(tokens), tenant)
        span = generation.span(start, len(tokens)) if start < len(tokens) else None
        cache.insert(tokens, start, span, generation.recurrent(), tenant)
        generation.release()
        self._feeding = None
