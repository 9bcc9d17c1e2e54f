"""Whether a model gives the expected answers, by its own prefill and decode steps.

First pass: where every expected token is the most likely one after those before it, greedy decoding
gives the expected text; where the first other token lies in the answer, it gives another text. Only
where it lies in the thought is the answer still open: it is decoded, token by token, and what
follows the thought is compared, character for character.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
from tokenizers import Tokenizer

from model.loading import Model
from model.sampling import SamplingParams
from model.state import KVSpan, RecurrentSnapshot, SequenceState

from .cases import END, MODES, Case, cases_of
from .data.encoding import END_OF_THOUGHT

CHUNK = 512
LONGEST_DETOUR = 256  # tokens past the expected length after which an answer counts as none


@dataclass(frozen=True, slots=True)
class Verdict:
    """decoded: the first pass left the answer open. said: the text up to the first wrong token, or
    all that was decoded; "" where the answer is right."""

    right: bool
    decoded: bool
    said: str


@dataclass(frozen=True, slots=True)
class _Past:
    """The state after `tokens`."""

    tokens: list[int]
    spans: tuple[KVSpan, ...]
    snapshot: RecurrentSnapshot


class Judge:
    """Judges the answers of one dialogue after another; states are kept while they are of it."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._end = tokenizer.token_to_id(END)
        self._pasts: list[_Past] = []

    def dialogue(self, index: int) -> list[tuple[Case, Verdict]]:
        """All answers of one held-out dialogue, in all modes."""
        self._pasts = []
        cases = [case for mode in MODES for case in cases_of(index, mode, self._tokenizer)]
        return [(case, self.judge(case)) for case in cases]

    def judge(self, case: Case) -> Verdict:
        past = self._past(case.prompt[: case.shared])
        strayed, token = self._first_pass(case, past)
        if token is None:
            return Verdict(right=True, decoded=False, said="")
        said = self._text([*case.expected[:strayed], token])
        if case.mode != "thinking" or END_OF_THOUGHT in said:
            return Verdict(right=False, decoded=False, said=said)
        said = self._text([*case.expected[:strayed], *self._decode(case, past, strayed)])
        _, mark, answer = said.rpartition(END_OF_THOUGHT)
        right = bool(mark) and answer == case.answer + END
        return Verdict(right, decoded=True, said="" if right else said)

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def _past(self, tokens: list[int]) -> _Past:
        """The state after `tokens`, from the longest kept one that they continue."""
        fitting = [p for p in self._pasts if p.tokens == tokens[: len(p.tokens)]]
        start = max(fitting, key=lambda past: len(past.tokens), default=None)
        if start is not None and start.tokens == tokens:
            return start
        state = self._restored(start)
        length = state.length
        self._feed(state, tokens[length:])
        spans = (*(start.spans if start else ()), state.span(length, len(tokens)))
        self._pasts.append(_Past(tokens, spans, state.recurrent()))
        return self._pasts[-1]

    def _restored(self, past: _Past | None) -> SequenceState:
        state = SequenceState(self._model.config, self._model.network.dtype)
        if past is not None:
            state.restore(past.spans, past.snapshot)
        return state

    def _feed(self, state: SequenceState, tokens: Sequence[int]) -> mx.array:
        """Prefills in chunks; the hidden states [T, hidden]."""
        rows = []
        for start in range(0, len(tokens), CHUNK):
            rows.append(self._model.steps.prefill(state, list(tokens[start : start + CHUNK]))[0])
            mx.eval(rows[-1], state.layers.bodies(), state.layers.moving())
        return mx.concatenate(rows)

    def _first_pass(self, case: Case, past: _Past) -> tuple[int, int | None]:
        """How many expected tokens come first, and the token said instead of the next one (None
        when all came)."""
        fed = [*case.prompt[case.shared :], *case.expected[:-1]]
        hidden = self._feed(self._restored(past), fed)[-len(case.expected) :]
        best: list[int] = self._model.network.logits(hidden).argmax(axis=-1).tolist()  # type: ignore[assignment]
        for index, (said, expected) in enumerate(zip(best, case.expected, strict=True)):
            if said != expected:
                return index, said
        return len(best), None

    def _decode(self, case: Case, past: _Past, strayed: int) -> list[int]:
        """Greedy decoding after the prompt and `strayed` expected tokens, up to the end of turn."""
        generation = self._model.generation(SamplingParams(temperature=0.0))
        generation.restore(past.spans, past.snapshot, past.tokens)
        known = [*case.prompt[case.shared :], *case.expected[:strayed]]
        generation.prefill(known[:-1])
        tokens = [generation.step(known[-1])]
        limit = len(case.expected) - strayed + LONGEST_DETOUR
        while tokens[-1] != self._end and len(tokens) < limit:
            tokens.append(generation.step())
        return tokens


def judge_dialogues(
    model: Model,
    tokenizer: Tokenizer,
    count: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[tuple[Case, Verdict]]:
    """The first `count` held-out dialogues; `progress` is told after each how many are done."""
    judge = Judge(model, tokenizer)
    judged: list[tuple[Case, Verdict]] = []
    for index in range(count):
        judged += judge.dialogue(index)
        progress(index + 1)
    return judged
