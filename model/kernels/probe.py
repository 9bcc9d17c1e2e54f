"""The admission of kernels for one network: which steps they are tried on.

A lone stream after a short prompt, which most requests are, and one after a long context, where
attention is another kernel: both timed. Three streams together: compared only. What only steps of
several tokens have is tried on such steps: one guess is timed, three are compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import mlx.core as mx

from model.kernel_choice import OF_GUESSES, KernelChoice
from model.kernels import Kernels
from model.kernels.admission import NONE, Admission, Row, without_kernels
from model.kernels.candidates import candidates, other_twins
from model.kernels.recording import Step
from model.lane_state import LaneState
from model.mtp_flight import MOST_DEPTH
from model.network import Network
from model.state import TAIL, LayerStates, SequenceState, bucket

Device = Literal["cpu", "metal", "cuda"]
PROMPT, LONG = 300, 4000  # tokens
FEW = 32  # of the logits: what the advised top_k takes
DECODED = 3  # steps before the recorded one, so that there is a tail


def admit(
    network: Network,
    choice: KernelChoice,
    *,
    device: Device,
    guesses: bool = False,
    compiled: bool = True,
) -> tuple[Row, ...]:
    """Gives the network the kernels, and the twins made with functions of mlx, that prove
    themselves now; returns what was found. A GPU without Metal has only the latter. guesses:
    whether the network will run steps of several tokens; what only those have keeps its twins
    otherwise.

    Reads the whole model a few dozen times: a second or two. Call before the first compiled step.
    """
    network.kernels = Kernels.plain()
    if device == "cpu" or choice == "off":
        return without_kernels(choice)
    limit = network.config.max_position_embeddings - TAIL
    prompt = _prompted(network, min(PROMPT, limit), seed=1)
    long = prompt.fork()
    _fill(long, min(LONG, limit))
    together = [_prompted(network, length, seed=length) for length in (5, 40, 17)]
    timed = [_step(network, [prompt]), _step(network, [long])]
    compared = [_step(network, together)]
    if guesses:
        timed += [_several(network, [state], 2) for state in (prompt, long)]
        all_states = [prompt], [long], together
        compared += [_several(network, states, MOST_DEPTH + 1) for states in all_states]
    admission = Admission(timed, compared, compiled=compiled)
    kernels = candidates() if device == "metal" else NONE
    network.kernels, rows = admission.admit(kernels, choice, other_twins())
    mx.clear_cache()  # what the trials needed is not what steps need
    return rows


def _prompted(network: Network, length: int, seed: int) -> SequenceState:
    """A sequence after random tokens."""
    state = SequenceState(network.config, network.dtype)
    state.reserve(length)
    key = mx.random.key(seed)
    tokens = mx.random.randint(0, network.config.vocab_size, (1, length), key=key)
    hidden, state.layers = network.prefill(tokens, state.layers, 0)
    state.body_length = length
    mx.eval(hidden, state.layers.moving(), state.layers.bodies())
    return state


def _fill(state: SequenceState, length: int) -> None:
    """Random keys and values, as after `length` tokens."""
    capacity = bucket(length, state.config.max_position_embeddings)
    for layer, kv in enumerate(state.layers.kv):
        shape = (1, kv.body_keys.shape[1], capacity, kv.body_keys.shape[3])
        keys, values = mx.random.split(mx.random.key(layer))
        kv.body_keys = mx.random.normal(shape, state.dtype, key=keys)
        kv.body_values = mx.random.normal(shape, state.dtype, key=values)
    state.body_length = length


def _step(network: Network, states: list[SequenceState]) -> Step:
    """A decode step of all `states` together, after a few others."""
    lane = LaneState([state.fork() for state in states])
    tokens = mx.arange(lane.rows, dtype=mx.int32) % network.config.vocab_size
    keys = mx.random.split(mx.random.key(0), lane.rows)

    def decoded() -> None:
        tail_length = mx.array(lane.tail_length, mx.int32)
        hidden, lane.layers = network.step(tokens, lane.layers, lane.lengths(), tail_length)
        lane.tail_length += 1
        logits = network.logits(hidden[:, 0])
        few = network.kernels.vocabulary_top_k(logits, keys, FEW)
        mx.eval(few, lane.layers.moving())

    for _ in range(DECODED):
        decoded()

    def step(kernels: Kernels) -> None:
        network.kernels = kernels
        try:
            decoded()
        finally:
            network.kernels = Kernels.plain()

    return step


def _several(network: Network, states: list[SequenceState], width: int) -> Step:
    """A step of `width` tokens of all `states` together, after another one of which each row keeps
    some."""
    lane = LaneState([state.fork() for state in states])
    shape = lane.rows, width
    tokens = mx.arange(lane.rows * width, dtype=mx.int32) % network.config.vocab_size
    kept = LayerStates(
        lane.layers.kv,
        [x[:, None] for x in lane.layers.conv_tails],
        [x[:, None] for x in lane.layers.recurrent],
    )
    tails = mx.full((lane.rows,), lane.tail_length, mx.int32)
    last = mx.arange(lane.rows, dtype=mx.int32) % width

    def stepped(states: LayerStates, tail_lengths: mx.array) -> LayerStates:
        hidden, after = network.several(
            tokens.reshape(shape), states, last, lane.lengths(), tail_lengths
        )
        mx.eval(hidden, after.moving())
        return after

    kept, tails = stepped(kept, tails), tails + last + 1

    def step(kernels: Kernels) -> None:
        # The other regions are tried where one token of each row is fed.
        network.kernels = replace(
            Kernels.plain(), **{name: getattr(kernels, name) for name in OF_GUESSES}
        )
        try:
            stepped(kept, tails)
        finally:
            network.kernels = Kernels.plain()

    return step
