"""The two ways a sequence advances: an eager prefill chunk, and one decode step compiled as a whole
by mx.compile.

A compiled step takes the fed token, the state's arrays, lengths as arrays and the sampler's row,
and returns the next token and the moved arrays. It is traced once per (KV bucket, sampler variant):
lengths never enter the graph as numbers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from model.network import Network
from model.sampler import Variant, count_fed, sample
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
        self._functions: dict[Variant, StepFunction] = {}

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
        token: mx.array,
        state: SequenceState,
        constants: dict[str, mx.array],
        moving: dict[str, mx.array],
        *,
        generated: bool,
    ) -> tuple[mx.array, dict[str, mx.array], mx.array | None]:
        """Feeds one token [1] and samples the next. Updates the state; nothing is evaluated yet.

        `generated` is false when the fed token belongs to the prompt. Returns the next token [1],
        the sampler's moved arrays, and the logits [1, V] when the variant asks for them.
        """
        if state.tail_full:
            state.reserve(0)
        bodies = state.layers.bodies()
        next_token, layers, moved, logits = self._function(variant)(
            token,
            bodies,
            state.layers.moving(),
            mx.array(state.body_length, mx.int32),
            mx.array(state.tail_length, mx.int32),
            constants,
            moving,
            mx.array(int(generated), mx.int32),
        )
        state.layers = LayerStates.join(bodies, layers)
        state.tail_length += 1
        return next_token, moved, logits[0] if logits else None

    def _function(self, variant: Variant) -> StepFunction:
        if variant not in self._functions:
            step = self._step(variant)
            self._functions[variant] = mx.compile(step) if self.compiled else step
        return self._functions[variant]

    def _step(self, variant: Variant) -> StepFunction:
        def step(
            token: mx.array,
            bodies: list[list[mx.array]],
            layers: list[list[mx.array]],
            body_length: mx.array,
            tail_length: mx.array,
            constants: dict[str, mx.array],
            moving: dict[str, mx.array],
            generated: mx.array,
        ) -> tuple[mx.array, list[list[mx.array]], dict[str, mx.array], list[mx.array]]:
            moving = count_fed(moving, token, generated)
            states = LayerStates.join(bodies, layers)
            hidden, states = self.network.step(token, states, body_length, tail_length)
            logits = self.network.logits(hidden[:, 0])
            next_token, moving = sample(logits, variant, constants, moving)
            return next_token, states.moving(), moving, [logits] if variant.with_logits else []

        return step
