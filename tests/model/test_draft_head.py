"""Guesses of a part of the vocabulary: the same logits, for these; the same answers, for all."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx
import pytest

from model.config import QuantSpec
from model.draft_head import DraftHead
from model.generation import Generation
from model.loading import DEMO_FOLDER, Model, load_model
from model.mtp_lane import MtpLane
from model.quantized import AnyLinear, Linear, QuantizedLinear
from model.state import TAIL
from tests.model.test_decoder import KINDS, tokens_of

VOCABULARY, HIDDEN, FREQUENT = 300, 64, 100
CONTROLS = (290, 7, 299, 290, 300, 100)  # some twice, frequent ones, or beyond the vocabulary
OTHERS = [100, 290, 299]


def _head(kind: Literal["plain", "affine", "mxfp8"]) -> AnyLinear:
    weight = mx.random.normal((VOCABULARY, HIDDEN), key=mx.random.key(3))
    if kind == "plain":
        return Linear(weight)
    spec = QuantSpec(mode=kind, bits=8, group_size=64 if kind == "affine" else 32)
    packed = mx.quantize(weight, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    return QuantizedLinear(packed[0], packed[1], packed[2] if len(packed) > 2 else None, spec)


@pytest.mark.parametrize("kind", ["plain", "affine", "mxfp8"])
def test_its_logits_are_the_heads(kind: Literal["plain", "affine", "mxfp8"]) -> None:
    head = _head(kind)
    draft = DraftHead.of(head, VOCABULARY, CONTROLS, FREQUENT)
    assert draft is not None
    ids = [*range(FREQUENT), *OTHERS]
    assert draft.ids.tolist() == ids
    x = mx.random.normal((2, HIDDEN), key=mx.random.key(4))
    whole, part = head(x), draft(x)
    assert part.dtype == mx.float32
    assert float(mx.abs(whole[:, mx.array(ids)] - part).max()) < 1e-5
    assert mx.array_equal(draft.cut(whole), whole[:, mx.array(ids)])
    outputs = mx.array([0, FREQUENT - 1, FREQUENT, len(ids) - 1], mx.int32)
    assert draft.tokens(outputs).tolist() == [0, 99, 100, 299]


def test_where_little_is_saved_there_is_none() -> None:
    assert DraftHead.of(_head("plain"), VOCABULARY, (), VOCABULARY // 2 + 1) is None
    assert DraftHead.of(_head("plain"), VOCABULARY, (), VOCABULARY // 2) is not None


def test_the_frequent_part_takes_no_memory() -> None:
    head = Linear(mx.zeros((4096, 1024)))
    mx.eval(head.weight)
    before = mx.get_active_memory()
    draft = DraftHead.of(head, 4096, [4095], 1000)
    assert draft is not None
    assert mx.get_active_memory() - before < 1 << 20  # the head's part has 4 MB


@pytest.fixture(scope="module")
def plain() -> Model:
    return load_model(DEMO_FOLDER, mtp_depth=0)


def _cut(model: Model, frequent: int, *others: int) -> None:
    """Has the head of a fresh `model` guess of a part of the vocabulary."""
    assert model.steps.mtp is not None
    head, vocabulary = model.steps.mtp.steps.head, model.config.vocab_size
    assert head.draft is None  # the demo's vocabulary is small
    controls = [control.id for control in model.tokenizer.controls.values()]
    head.draft = DraftHead.of(model.network.lm_head, vocabulary, [*controls, *others], frequent)
    assert head.draft is not None


@pytest.fixture(scope="module", params=[300, 900])
def guessing(request: pytest.FixtureRequest) -> Model:
    model = load_model(DEMO_FOLDER, mtp_depth=2)
    _cut(model, request.param)
    return model


def _answer(model: Model, prompt: list[int], kind: int, count: int) -> tuple[list[int], Generation]:
    generation = model.generation(KINDS[kind])
    generation.prefill(prompt[:-1])
    tokens = [generation.step(prompt[-1])]
    while len(tokens) < count:
        tokens.append(generation.step())
    return tokens, generation


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_answers_are_those_without_guesses(plain: Model, guessing: Model, kind: int) -> None:
    prompt = tokens_of(kind, 40)
    tokens, generation = _answer(guessing, prompt, kind, TAIL + 30)
    assert isinstance(generation.lane, MtpLane)
    assert tokens == _answer(plain, prompt, kind, TAIL + 30)[0]


def test_what_is_of_the_part_is_guessed_no_worse() -> None:
    """One token ahead: where the whole head is right about a token of the part, so is the part."""
    whole, part = (load_model(DEMO_FOLDER, mtp_depth=1) for _ in range(2))
    prompt = whole.tokenizer.encode("What is the capital of France?")
    tokens, with_whole = _answer(whole, prompt, 0, 60)
    _cut(part, 600, *tokens)
    again, with_part = _answer(part, prompt, 0, 60)
    assert again == tokens
    right = sum(accepted for _, accepted in with_whole.row.outcomes)
    assert right > 10
    assert len(with_part.row.outcomes) <= len(with_whole.row.outcomes)
