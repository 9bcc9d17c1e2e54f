"""A decode step that guesses and verifies, at any geometry, over arrays that hold no memory: what
blank_step.py is for one without guesses."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from model.config import ModelConfig
from model.draft_head import DraftHead
from model.joining import layer_joins
from model.lane_state import LaneState
from model.launches.blank_step import BlankStep, BlankWeights
from model.launches.stand_ins import blank
from model.mtp import MtpHead
from model.mtp_checkpoint import LAYER
from model.mtp_flight import PLACES
from model.mtp_steps import Captured, Fed, MtpSteps
from model.network import Network
from model.sampler import Arrays
from model.state import LayerStates
from model.tensors import expected_mtp_tensors

CONTROLS = 32  # control tokens behind the frequent ones, about as many as the real vocabulary has


@dataclass(frozen=True, slots=True)
class BlankGuess:
    """A sequence in the midst of its answer, ready for a step with `guesses` guesses; its head is
    stored in bfloat16, as the original repository has it."""

    step: BlankStep
    guesses: int
    mtp: MtpSteps
    captured: Captured
    carry: Arrays
    fed: Fed

    @staticmethod
    def of(step: BlankStep, guesses: int) -> BlankGuess:
        """The sequence and the network of a step without guesses."""
        network, width = step.steps.network, guesses + 1
        head = _blank_head(network)
        layers = step.state.layers
        captured: Captured = [
            [blank((1, width, *x.shape[1:]), x.dtype) for x in part] for part in layers.moving()[2:]
        ]
        given = mx.full((1, width + 1), -1, mx.int32)
        fed = Fed(given, mx.ones((1, width), mx.int32), mx.zeros((1,), mx.int32))
        carry = _carry(network.config, network.dtype, width)
        mx.eval(given, fed.generated, fed.fixed, carry)
        return BlankGuess(step, guesses, MtpSteps(head, compiled=False), captured, carry, fed)

    def __call__(self, nexts: mx.array) -> tuple[object, ...]:
        """nexts int32 [1, guesses + 1], the tokens that the step before went on by -> everything
        that a step leaves, not computed."""
        lane = LaneState([self.step.state])
        layers = LayerStates(lane.layers.kv, [], [])
        outcome = self.mtp.run(
            self.step.variant,
            layers,
            self.captured,
            lane.lengths(),
            self.carry | {"nexts": nexts},
            self.step.constants,
            self.step.moving,
            self.fed,
            scored=False,
        )
        return (
            outcome.tails,
            outcome.captured,
            outcome.carry,
            outcome.moving,
            outcome.samples,
            outcome.last,
            [] if outcome.keys is None else [outcome.keys],
        )


def _blank_head(network: Network) -> MtpHead:
    config, vocabulary = network.config, network.config.vocab_size
    weights = BlankWeights.of_table(
        expected_mtp_tensors(config),
        layer_joins(config, LAYER, "full_attention", lambda _: None),
        {},
        network.dtype,
    )
    controls = range(vocabulary - CONTROLS, vocabulary)
    draft = DraftHead.of(network.lm_head, vocabulary, controls)
    return MtpHead(config, weights, network, on_gpu=True, draft=draft)


def _carry(config: ModelConfig, dtype: mx.Dtype, width: int) -> Arrays:
    numbers = ("last", "tail_lengths", "pairs", "head_counts", "head_offsets")
    kv = (1, config.num_key_value_heads, PLACES, config.head_dim)
    return {
        **{name: mx.array([1], mx.int32) for name in numbers},
        "hidden": blank((1, width, config.hidden_size), dtype),
        "head_keys": blank(kv, dtype),
        "head_values": blank(kv, dtype),
    }
