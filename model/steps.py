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
from typing import Any

import mlx.core as mx

from model.lane_state import LaneState
from model.network import Network
from model.sampler import Arrays, Variant, count_fed, sample
from model.state import LayerStates, SequenceState

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
        self._functions: dict[tuple[Variant, int, int], StepFunction] = {}

    def prefill(self, state: SequenceState, tokens: list[int]) -> mx.array:
        """Feeds a chunk; returns its hidden states [1, T, hidden], not evaluated."""
        state.reserve(len(tokens))
        hidden, state.layers = self.network.prefill(
            mx.array([tokens]), state.layers, state.body_length
        )
        state.body_length += len(tokens)
        return hidden

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
        if state.tail_full:
            state.merge_tails()
        bodies = state.layers.bodies()
        key = variant, state.rows, state.capacity
        if key not in self._functions:
            step = self._step(variant)
            self._functions[key] = mx.compile(step) if self.compiled else step
        next_tokens, layers, moved, logits = self._functions[key](
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
        return next_tokens, moved, logits[0] if logits else None

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
            next_tokens, moving = sample(logits, variant, constants, moving)
            return next_tokens, states.moving(), moving, [logits] if variant.with_logits else []

        return step
