"""The two ways a sequence advances: an eager prefill chunk, and one decode step of all rows of a
lane, compiled as a whole by mx.compile.

A compiled step takes the fed tokens, the lane's arrays, lengths as arrays and the samplers' arrays,
and returns the next tokens and the moved arrays. It is traced once per (rows, KV bucket, sampler
variant): lengths never enter the graph as numbers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from model.constraint import masked
from model.lane_state import LaneState
from model.network import Network
from model.sampler import Arrays, Variant, count_fed, sample
from model.scores import Scores, scores
from model.state import LayerStates, SequenceState

if TYPE_CHECKING:
    from model.mtp_speculation import Mtp

log = logging.getLogger(__name__)

StepFunction = Callable[..., Any]


def compiler_available(*, on_gpu: bool) -> bool:
    """mx.compile writes C++ and calls g++ on the CPU; GPU back ends compile by themselves."""
    return on_gpu or shutil.which("g++") is not None


class Steps:
    """Prefill and decode steps over one network."""

    def __init__(self, network: Network, *, on_gpu: bool):
        self.network = network
        self.compiled = compiler_available(on_gpu=on_gpu)
        if not self.compiled:
            log.warning("no C++ compiler found: decode steps run uncompiled, which is slower")
        self._functions: dict[object, StepFunction] = {}
        self.mtp: Mtp | None = None  # speculation, where there is a head for it

    def prefill(self, state: SequenceState, tokens: list[int]) -> mx.array:
        """Feeds a chunk; returns its hidden states [1, T, hidden], not evaluated."""
        state.reserve(len(tokens))
        hidden, state.layers = self.network.prefill(
            mx.array([tokens]), state.layers, state.body_length
        )
        state.body_length += len(tokens)
        return hidden

    def score(self, hidden: mx.array, following: list[int]) -> Scores:
        """hidden [1, T, hidden] of a prefill and the token after each place -> their scores."""
        return scores(self.network.logits(hidden[0]), mx.array(following, mx.int32))

    def decode(
        self,
        variant: Variant,
        tokens: mx.array,
        state: LaneState,
        constants: Arrays,
        moving: Arrays,
        generated: mx.array,
    ) -> tuple[mx.array, Arrays, mx.array | None]:
        """Feeds one token per row [B] and samples the next. Updates the state; nothing is evaluated
        yet.

        `generated` int32 [B] is 0 where the fed token belongs to the prompt. Returns the next
        tokens [B], the samplers' moved arrays, and the logits [B, V] when the variant asks for
        them.
        """
        next_tokens, moved, logits = self._run(
            variant, self._step(variant), state, tokens, constants, moving, generated
        )
        return next_tokens, moved, logits[0] if logits else None

    def forward(
        self, tokens: mx.array, state: LaneState, moving: Arrays, generated: mx.array
    ) -> tuple[mx.array, Arrays]:
        """The first half of decode(), for rows whose next token somebody has a say in: feeds one
        token per row. Returns the logits [B, V] and the moved arrays."""
        kind = "forward", *sorted(moving)
        logits, moved, _ = self._run(kind, self._forward, state, tokens, {}, moving, generated)
        return logits, moved

    def choose(
        self,
        variant: Variant,
        logits: mx.array,
        constants: Arrays,
        moving: Arrays,
        mask: mx.array | None,
        *,
        scored: bool,
    ) -> tuple[mx.array, Arrays, Scores | None]:
        """The second half: samples among the tokens that `mask` (see model.constraint) allows.
        Returns the next tokens [B], the moved arrays, and, with `scored`, the tokens' scores."""
        key = "choose", variant, mask is not None, scored
        if key not in self._functions:
            choose = self._choose(variant, scored=scored)
            self._functions[key] = mx.compile(choose) if self.compiled else choose
        given = [] if mask is None else [mask]
        next_tokens, moved, found = self._functions[key](logits, constants, moving, given)
        return next_tokens, moved, tuple(found) if found else None

    def _run(
        self,
        kind: object,
        step: StepFunction,
        state: LaneState,
        tokens: mx.array,
        constants: Arrays,
        moving: Arrays,
        generated: mx.array,
    ) -> tuple[mx.array, Arrays, list[mx.array]]:
        if state.tail_full:
            state.merge_tails()
        bodies = state.layers.bodies()
        key = kind, state.rows, state.capacity
        if key not in self._functions:
            self._functions[key] = mx.compile(step) if self.compiled else step
        result, layers, moved, logits = self._functions[key](
            tokens,
            bodies,
            state.layers.moving(),
            state.lengths(),
            mx.array(state.tail_length, mx.int32),
            constants,
            moving,
            generated,
        )
        state.layers = LayerStates.join(bodies, layers)
        state.tail_length += 1
        return result, moved, logits

    def _step(self, variant: Variant) -> StepFunction:
        def step(
            tokens: mx.array,
            bodies: list[list[mx.array]],
            layers: list[list[mx.array]],
            body_lengths: mx.array,
            tail_length: mx.array,
            constants: Arrays,
            moving: Arrays,
            generated: mx.array,
        ) -> tuple[mx.array, list[list[mx.array]], Arrays, list[mx.array]]:
            moving = count_fed(moving, tokens, generated)
            states = LayerStates.join(bodies, layers)
            hidden, states = self.network.step(tokens, states, body_lengths, tail_length)
            logits = self.network.logits(hidden[:, 0])
            top_k = self.network.kernels.vocabulary_top_k
            next_tokens, moving = sample(logits, variant, constants, moving, top_k)
            return next_tokens, states.moving(), moving, [logits] if variant.with_logits else []

        return step

    def _forward(
        self,
        tokens: mx.array,
        bodies: list[list[mx.array]],
        layers: list[list[mx.array]],
        body_lengths: mx.array,
        tail_length: mx.array,
        constants: Arrays,
        moving: Arrays,
        generated: mx.array,
    ) -> tuple[mx.array, list[list[mx.array]], Arrays, list[mx.array]]:
        moving = count_fed(moving, tokens, generated)
        states = LayerStates.join(bodies, layers)
        hidden, states = self.network.step(tokens, states, body_lengths, tail_length)
        return self.network.logits(hidden[:, 0]), states.moving(), moving, []

    def _choose(self, variant: Variant, *, scored: bool) -> StepFunction:
        def choose(
            logits: mx.array, constants: Arrays, moving: Arrays, mask: list[mx.array]
        ) -> tuple[mx.array, Arrays, list[mx.array]]:
            allowed = masked(logits, mask[0]) if mask else logits
            finite = mx.isfinite(logits.max(axis=-1))
            top_k = self.network.kernels.vocabulary_top_k
            next_tokens, moving = sample(allowed, variant, constants, moving, top_k)
            next_tokens = mx.where(finite, next_tokens, -1)
            found = list(scores(logits, next_tokens)) if scored else []
            return next_tokens, moving, found

        return choose
