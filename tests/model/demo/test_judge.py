"""The judge's short cuts give the verdicts of plain greedy decoding."""

from dataclasses import replace

import pytest

from model.demo.cases import END, END_OF_THOUGHT, MODES, Case, cases_of
from model.demo.chat_template import CHECKPOINT
from model.demo.judge import Judge
from model.demo.tokenizer import load_tokenizer
from model.loading import Model, load_model
from model.sampling import SamplingParams

TOKENIZER = load_tokenizer(CHECKPOINT)
LONGEST = 400


@pytest.fixture(scope="module")
def demo() -> Model:
    return load_model(CHECKPOINT)


def decoded(model: Model, case: Case) -> str:
    """The whole answer, decoded greedily after the whole prompt."""
    generation = model.generation(SamplingParams(temperature=0.0))
    generation.prefill(case.prompt[:-1])
    end = TOKENIZER.token_to_id(END)
    tokens = [generation.step(case.prompt[-1])]
    while tokens[-1] != end and len(tokens) < LONGEST:
        tokens.append(generation.step())
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def is_right(case: Case, text: str) -> bool:
    _, mark, answer = text.rpartition(END_OF_THOUGHT)
    if case.mode != "thinking":
        return text == case.answer + END
    return bool(mark) and answer == case.answer + END


def test_verdicts_are_those_of_decoding_every_answer(demo: Model) -> None:
    judge = Judge(demo, TOKENIZER)
    seen = set()
    for index in (8, 43):
        for case, verdict in judge.dialogue(index):
            text = decoded(demo, case)
            assert verdict.right == is_right(case, text)
            assert verdict.right or text.startswith(verdict.said)
            seen.add((case.mode, verdict.right))
    assert {(mode, True) for mode in MODES} <= seen


def test_another_answer_is_wrong_and_said(demo: Model) -> None:
    judge = Judge(demo, TOKENIZER)
    case = next(
        case
        for index in range(20)
        for case in cases_of(index, "no thinking", TOKENIZER)
        if case.skill == "capital" and judge.judge(case).right
    )
    wrong = "Nowhere."
    asked = replace(case, expected=TOKENIZER.encode(wrong + END).ids, answer=wrong)
    verdict = judge.judge(asked)
    assert not verdict.right
    assert not verdict.decoded
    assert verdict.said
    assert not wrong.startswith(verdict.said)


def test_another_thought_is_decoded_and_its_answer_counts(demo: Model) -> None:
    judge = Judge(demo, TOKENIZER)
    case = next(
        case
        for index in range(20)
        for case in cases_of(index, "thinking", TOKENIZER)
        if case.skill == "capital" and judge.judge(case).right
    )
    thought = "Penguins swim." + END_OF_THOUGHT
    asked = replace(case, expected=TOKENIZER.encode(thought + case.answer + END).ids)
    verdict = judge.judge(asked)
    assert verdict.right
    assert verdict.decoded
    other = judge.judge(replace(asked, answer="Nowhere."))
    assert not other.right
    assert other.decoded
    assert other.said.endswith(case.answer + END)
