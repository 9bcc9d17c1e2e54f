"""One sequence: its tokens, its state, its sampler.

Knows nothing of text, stop strings or budgets. Every call comes from the thread that loaded the
model. It decodes alone, by `step`, or with others, as a member of a `Decoder`; either way a step is
queued before the token of the step before it is read, so the device never waits for Python.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from model.constraint import TokenConstraint
from model.lane import Lane, Row
from model.mtp import WINDOW
from model.mtp_lane import MtpLane
from model.mtp_state import MtpState
from model.sampler import SamplerRow
from model.sampling import SamplingParams
from model.scores import TokenScores, read
from model.state import KVSpan, RecurrentSnapshot, SequenceState
from model.steps import Steps


class Generation:
    """A sequence being prefilled and then decoded. `row` is what steps; `lane` is where it steps
    now, None while it does not decode.
    """

    def __init__(self, steps: Steps, sampling: SamplingParams):
        self._steps = steps
        self._sampling = sampling
        self.row = Row(SequenceState(steps.network.config, steps.network.dtype))
        self.lane: Lane | MtpLane | None = None
        self._prompt_length = 0
        self._seed = sampling.seed

    @property
    def tokens(self) -> list[int]:
        """Ids fed so far, prompt and generated."""
        return list(self.row.tokens)

    @property
    def position(self) -> int:
        """Number of tokens fed so far."""
        return len(self.row.tokens)

    def restore(
        self, spans: Sequence[KVSpan], recurrent: RecurrentSnapshot, tokens: Sequence[int]
    ) -> None:
        """Continues after `tokens`, whose KV and recurrent state are given. Only on a fresh
        generation.
        """
        if len(tokens) != recurrent.position:
            raise ValueError(f"{len(tokens)} tokens, but a snapshot at {recurrent.position}")
        self.row.state.restore(spans, recurrent)
        self.row.tokens = list(tokens)

    def pretend(self, tokens: int) -> None:
        """As if that many tokens had been fed and left a state of zeros: what a step of that size
        is compiled with, without the work of a prompt. Only on a fresh generation."""
        state = self.row.state
        state.reserve(tokens)
        state.body_length = tokens
        self.row.tokens = [0] * tokens

    def fork(self, sampling: SamplingParams) -> Generation:
        """Another generation that goes on from here; nothing is copied. Not while decoding."""
        self._rest()
        other = Generation(self._steps, sampling)
        other.row = Row(self.row.state.fork(), list(self.row.tokens))
        other.row.mtp = None if self.row.mtp is None else self.row.mtp.copy()
        return other

    def resume(self, sampling: SamplingParams) -> None:
        """Ends the answer: what was sampled but not returned is dropped, and a next turn may be
        prefilled after the fed tokens, to be decoded with `sampling`."""
        self._rest()
        self._sampling, self._seed = sampling, sampling.seed
        self.row = Row(self.row.state, self.row.tokens, mtp=self.row.mtp)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Feeds tokens and waits for the device. Long prompts come in several calls: between them
        is where to cancel.
        """
        if not tokens:
            return
        self._rest()
        state = self.row.state
        hidden = self._steps.prefill(state, list(tokens))
        self.row.tokens.extend(tokens)
        mx.eval(state.layers.bodies(), state.layers.moving(), *self._noted(hidden))

    def score(self, tokens: Sequence[int], following: Sequence[int], top: int) -> list[TokenScores]:
        """As prefill(); tells the scores of the token after each of `tokens`, and of the `top`
        likeliest ones there. The logits of all places are held at once: T times the vocabulary."""
        self._rest()
        state = self.row.state
        hidden = self._steps.prefill(state, list(tokens))
        self.row.tokens.extend(tokens)
        found = self._steps.score(hidden, list(following))
        noted = self._noted(hidden)
        mx.eval(state.layers.bodies(), state.layers.moving(), *found, *noted)
        return read(found, top)

    def _noted(self, hidden: mx.array) -> list[mx.array]:
        """Keeps the hidden vectors [1, T, H] of a chunk just fed for the MTP head, where they may
        be used; returns what is to be computed for that."""
        mtp, row = self._steps.mtp, self.row
        if mtp is None or not mtp.policy.may_pay():
            row.mtp = None
            return []
        if row.mtp is None:
            row.mtp = MtpState()
        fed = hidden.shape[1]
        normed = self._steps.network.normed(hidden[:, -WINDOW:])
        row.mtp.add(normed, len(row.tokens) - normed.shape[1], whole=normed.shape[1] == fed)
        return [] if row.mtp.hidden is None else [row.mtp.hidden]

    def depth(self, rows: int) -> int:
        """How many tokens it guesses in its next step, among `rows` rows: none while its rules hold
        or where the policy says so."""
        mtp, row = self._steps.mtp, self.row
        if mtp is None or row.ruled:
            return 0
        if row.constraint is not None and any(generated for _, generated in row.forced):
            return 0  # what closes a thought may wake it
        return mtp.depth(row, rows)

    @property
    def scored(self) -> TokenScores | None:
        """The scores of the token that was returned last, where begin() asked for them."""
        return self.row.scored

    def begin(
        self, token: int, *, constraint: TokenConstraint | None = None, top: int | None = None
    ) -> None:
        """Makes ready to decode: the prompt's last `token` is fed by the first step, and what is
        sampled after it is the first one returned. constraint: decides what may be sampled; top:
        how many likeliest tokens are told with each token's scores, None for no scores."""
        row = self.row
        row.constraint, row.top = constraint, top
        self._prompt_length = len(row.tokens) + 1
        row.sampler = self._fresh_sampler([*row.tokens, token])
        row.sampled = None
        row.forced.append((token, False))

    def recovered(self) -> tuple[Generation, list[int]]:
        """After the state was lost while decoding: a generation that goes on after the same tokens,
        and those of them to prefill() before it rejoin()s. Its draws are what they would have
        been."""
        other = Generation(self._steps, self._sampling)
        other._seed, other._prompt_length = self._seed, self._prompt_length
        tokens = self.row.tokens
        prompt, generated = tokens[: self._prompt_length], tokens[self._prompt_length :]
        if len(prompt) < self._prompt_length:  # its last token waits to be fed; nothing was drawn
            rest = list(tokens)
            other.row.sampler = other._fresh_sampler([*tokens, self.row.forced[0][0]])
        else:
            rest = tokens[:-1]
            other.row.sampler = other._fresh_sampler(prompt)
            # The step that fed the prompt's last token drew first; the last one's is drawn again.
            other.row.sampler.replay(generated[:-1], draws=len(generated))
            other.row.forced.append((tokens[-1], bool(generated)))
        other.row.constraint, other.row.top = self.row.constraint, self.row.top
        other.row.accepted = self.row.accepted
        other.row.forced.extend(self.row.forced)
        return other, rest

    def _fresh_sampler(self, prompt: list[int]) -> SamplerRow:
        if self._seed is None:
            self._seed = random.getrandbits(32)
        sampling = replace(self._sampling, seed=self._seed)
        return SamplerRow.of(sampling, self._steps.network.config.vocab_size, prompt)

    def step(self, token: int | None = None) -> int:
        """Decodes alone. Returns the next token id, or -1 if the logits were not finite; the step
        after it is queued already, so what is returned has been fed.

        The first call passes the prompt's last token (prefill fed all before it); later ones pass
        nothing.
        """
        if token is not None:
            self.begin(token)
        row = self.row
        if row.forced:
            row.told.clear()
        while not row.told:
            value = self.advance()
            if value is not None:
                return value
        return row.take()

    def advance(self) -> int | None:
        """One step of a generation that decodes alone, after begin(). Returns the token it goes on
        by; None where that was forced, or where it speculates: then they are in `row.told`."""
        if self.lane is None:
            depth, mtp = self.depth(1), self._steps.mtp
            lane = Lane(self._steps) if not depth or mtp is None else MtpLane(mtp.steps, depth)
            lane.join(self.row)
            self.lane = lane
        if isinstance(self.lane, Lane):
            return self.lane.step()[0]
        while self.row.told:  # nobody wanted to know
            self.row.take()
        self.lane.step()
        return None

    def force(self, tokens: Sequence[int]) -> None:
        """Feeds `tokens` after the last returned one in place of what was sampled there, one in
        each step; the next token returned comes after them.
        """
        self.row.forced.extend((token, True) for token in tokens)

    def settle(self) -> None:
        """Stops decoding and waits until the state holds exactly `tokens`."""
        self._rest()
        layers = self.row.state.layers
        mx.eval(layers.bodies(), layers.moving())

    def span(self, start: int, end: int) -> KVSpan:
        """KV of the fed tokens [start, end), in memory of its own. Not while decoding with others.
        Raises FloatingPointError when it is not finite.
        """
        if not 0 <= start <= end <= self.position:
            raise ValueError(f"span [{start}, {end}) of {self.position} tokens")
        self._rest()
        return self.row.state.span(start, end)

    def recurrent(self) -> RecurrentSnapshot:
        """The recurrent state after all fed tokens, in memory of its own. Not while decoding with
        others. Raises FloatingPointError when it is not finite.
        """
        self._rest()
        return self.row.state.recurrent()

    def release(self) -> None:
        """Drops every array; the generation cannot go on."""
        self.lane = None
        self.row = Row(SequenceState(self._steps.network.config, self._steps.network.dtype))

    def _rest(self) -> None:
        """Takes the state back from the lane it decodes in alone."""
        if self.lane is None:
            return
        if len(self.lane.rows) > 1:
            raise RuntimeError("the generation decodes with others; let it leave first")
        self.lane.leave(self.row)
        self.lane = None
