"""One running sequence: its state, its sampler row, its pipelined decode step.

Knows nothing of text, stop strings or budgets. Every call comes from the thread that loaded the
model. A step is queued before the token of the step before it is read, so the device never waits
for Python.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from model.sampler import Variant, count_fed, sampler_row
from model.sampling import SamplingParams
from model.state import KVSpan, RecurrentSnapshot, SequenceState
from model.steps import Steps


class Generation:
    """A sequence being prefilled and then decoded. After `step()` returned a token, the state has
    been fed that token.
    """

    def __init__(self, steps: Steps, sampling: SamplingParams):
        self._steps = steps
        self._sampling = sampling
        self._variant = Variant.of(sampling)
        self._state = SequenceState(steps.network.config, steps.network.dtype)
        self._tokens: list[int] = []
        self._next: mx.array | None = None  # [1]: sampled after the last fed token, maybe unread
        self._constants: dict[str, mx.array] = {}
        self._moving: dict[str, mx.array] = {}

    @property
    def tokens(self) -> list[int]:
        """Ids fed so far, prompt and generated."""
        return list(self._tokens)

    @property
    def position(self) -> int:
        """Number of tokens fed so far."""
        return len(self._tokens)

    def restore(
        self, spans: Sequence[KVSpan], recurrent: RecurrentSnapshot, tokens: Sequence[int]
    ) -> None:
        """Continues after `tokens`, whose KV and recurrent state are given. Only on a fresh
        generation.
        """
        if len(tokens) != recurrent.position:
            raise ValueError(f"{len(tokens)} tokens, but a snapshot at {recurrent.position}")
        self._state.restore(spans, recurrent)
        self._tokens = list(tokens)

    def resume(self, sampling: SamplingParams) -> None:
        """Ends the answer: what was sampled but not returned is dropped, and a next turn may be
        prefilled after the fed tokens, to be decoded with `sampling`."""
        self._sampling = sampling
        self._variant = Variant.of(sampling)
        self._next = None

    def prefill(self, tokens: Sequence[int]) -> None:
        """Feeds tokens and waits for the device. Long prompts come in several calls: between them
        is where to cancel.
        """
        if not tokens:
            return
        self._steps.prefill(self._state, list(tokens))
        self._tokens.extend(tokens)
        layers = self._state.layers
        mx.eval(layers.bodies(), layers.moving())

    def step(self, token: int | None = None) -> int:
        """Returns the next token id, or -1 if the logits were not finite; the step after it is
        queued already.

        The first call passes the prompt's last token (prefill fed all before it); later ones pass
        nothing.
        """
        if token is not None:
            self._start(token)
        if self._next is None:
            raise ValueError("the first step needs the prompt's last token")
        current = self._next
        self._queue(current, generated=True)
        value = int(current.tolist()[0])  # type: ignore[index]
        self._tokens.append(value)
        return value

    def force(self, tokens: Sequence[int]) -> None:
        """Feeds `tokens` after the last returned one in place of what was sampled there; step()
        goes on after them.
        """
        if not tokens:
            return
        self._next = None
        self.prefill(tokens[:-1])
        for token in tokens[:-1]:
            self._moving = count_fed(self._moving, mx.array([token]), mx.array(1))
        self._queue(mx.array([tokens[-1]], mx.int32), generated=True)
        self._tokens.append(tokens[-1])

    def settle(self) -> None:
        """Waits until the state holds exactly `tokens`."""
        layers = self._state.layers
        mx.eval(layers.bodies(), layers.moving())

    def span(self, start: int, end: int) -> KVSpan:
        """KV of the fed tokens [start, end), in memory of its own."""
        if not 0 <= start <= end <= self.position:
            raise ValueError(f"span [{start}, {end}) of {self.position} tokens")
        return self._state.span(start, end)

    def recurrent(self) -> RecurrentSnapshot:
        """The recurrent state after all fed tokens, in memory of its own."""
        return self._state.recurrent()

    def release(self) -> None:
        """Drops every array; the generation cannot go on."""
        self._next = None
        self._constants, self._moving = {}, {}
        self._state = SequenceState(self._steps.network.config, self._steps.network.dtype)
        self._tokens = []

    def _start(self, token: int) -> None:
        vocabulary = self._steps.network.config.vocab_size
        sampling = self._sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=random.getrandbits(32))
        row = sampler_row(sampling, vocabulary, [*self._tokens, token])
        self._constants, self._moving = row.constants, row.moving
        self._queue(mx.array([token], mx.int32), generated=False)
        self._tokens.append(token)

    def _queue(self, token: mx.array, *, generated: bool) -> None:
        self._next, self._moving, _ = self._steps.decode(
            self._variant,
            token,
            self._state,
            self._constants,
            self._moving,
            generated=generated,
        )
        mx.async_eval(self._next)
