"""The two-line use from Python, and a session that prefills only what is new."""

from functools import cache

import pytest

import model
from model.loading import Model, load_model
from model.sampling import SamplingParams
from model.session import Session
from model.thinking import CLOSING_TEXT

GREEDY = SamplingParams(temperature=0.0)


@cache
def demo() -> Model:
    return load_model()


def test_generate_answers() -> None:
    text = model.generate(
        demo(), demo().tokenizer, "What is the capital of France?", effort="none", sampling=GREEDY
    )
    assert "Paris" in text


def test_stream_joins_to_generate_and_tells_reasoning_from_content() -> None:
    question = "What is 12 + 25?"
    deltas = list(model.stream(demo(), demo().tokenizer, question, sampling=GREEDY))
    content = "".join(d.text for d in deltas if not d.reasoning)
    assert content == model.generate(demo(), demo().tokenizer, question, sampling=GREEDY)
    assert any(d.reasoning for d in deltas)
    assert "</think>" not in content


def test_a_session_prefills_only_what_is_new() -> None:
    session = Session(demo(), system="You are a helpful assistant.", sampling=GREEDY)
    questions = ["What is the capital of Spain?", "And Italy?", "Thanks!", "Count from 2 to 5."]
    fed = 0
    for number, question in enumerate(questions):
        reply = session.send(question, effort="none" if number % 2 else "low")
        assert reply.cached_tokens == fed
        fed = reply.prompt_tokens + reply.completion_tokens
    assert [m["role"] for m in session.messages] == ["system"] + ["user", "assistant"] * 4


def test_a_budget_closes_the_thought_and_the_answer_follows() -> None:
    session = Session(demo(), sampling=GREEDY)
    free = session.send("What is 47 + 38? Think carefully.", effort="max")
    from model import thinking

    cut = Session(demo(), sampling=GREEDY)
    budgets = {**thinking.EFFORT_BUDGETS, "minimal": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.session.EFFORT_BUDGETS", budgets)
        reply = cut.send("What is 47 + 38? Think carefully.", effort="minimal")
    assert len(reply.reasoning) < len(free.reasoning)
    assert reply.reasoning.endswith(CLOSING_TEXT.split("</think>")[0].strip())
    assert reply.text


def test_an_abandoned_answer_leaves_the_session_usable() -> None:
    session = Session(demo(), sampling=GREEDY)
    pieces = session.stream("Count from 1 to 9.", effort="none")
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert session.messages[-1]["role"] == "assistant"
    assert "Rome" in session.send("What is the capital of Italy?", effort="none").text


def test_bad_uses_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="none, minimal, low"):
        Session(demo()).send("hi", effort="huge")
    with pytest.raises(ValueError, match="empty"):
        list(model.stream(demo(), demo().tokenizer, []))
    with pytest.raises(ValueError, match="at least 1, or None for no limit; got 0"):
        model.generate(demo(), demo().tokenizer, "hi", max_tokens=0)
    with pytest.raises(ValueError, match="context holds"):
        list(model.stream(demo(), demo().tokenizer, [300] * 131_072))


def test_raw_token_ids_are_continued_as_they_are() -> None:
    ids = demo().tokenizer.encode("The capital of France is")
    deltas = list(model.stream(demo(), demo().tokenizer, ids, max_tokens=3, sampling=GREEDY))
    assert deltas[-1].tokens <= 3
    assert not any(d.reasoning for d in deltas)
