"""Turns this server generated come back as the very tokens it generated."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model
from model.prompt import encode_chat
from model.template import ChatTemplate
from model.tokenizer import Tokenizer
from model.turn_memory import PrefixDigest, TurnMemory

DEMO = Path(model.__path__[0]) / "demo" / "checkpoint"
TOKENIZER = Tokenizer.from_folder(DEMO)
TEMPLATE = ChatTemplate.from_folder(DEMO)
END = TOKENIZER.controls["<|im_end|>"].id

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>"), max_size=15)
space = st.sampled_from(["", "\n", "\n\n", " \n ", "  "])


def _encode(messages, turns, *, thinking=True, preserve=True, tools=None):
    return encode_chat(
        TOKENIZER,
        TEMPLATE,
        messages,
        tools=tools,
        enable_thinking=thinking,
        preserve_thinking=preserve,
        turns=turns,
    )


def _generated(reasoning, content, thinking, odd):
    """Ids as a model may write them: odd whitespace, not the tokenizer's own cut."""
    thought = f"{reasoning}{odd}</think>{odd}" if thinking else ""
    ids = TOKENIZER.encode(thought, allow_special=True)
    for character in odd + content + odd:
        ids += TOKENIZER.encode(character)
    return [*ids, END]


answers = st.lists(st.tuples(text, text, text, space, st.booleans(), st.booleans()), max_size=4)


@given(answers)
def test_every_next_prompt_extends_prompt_and_answer_exactly(exchanges):
    turns, messages, so_far = TurnMemory(), [], []
    for question, reasoning, content, odd, thinking, echoed in exchanges:
        messages.append({"role": "user", "content": question})
        prompt = _encode(messages, turns, thinking=thinking)
        assert prompt.tokens[: len(so_far)] == so_far
        assert len(so_far) == 0 or len(so_far) + 1 in prompt.boundaries
        reasoning = reasoning if thinking else ""
        generated = _generated(reasoning, content, thinking, odd)
        turns.remember(prompt.tokens, generated, odd + content, reasoning + odd, None)
        so_far = prompt.tokens + generated
        answer = {"role": "assistant", "content": content.strip()}
        if echoed:
            answer["reasoning_content"] = reasoning.strip()
        messages.append(answer)


def test_tool_calls_match_by_value_not_by_spelling():
    turns, question = TurnMemory(), {"role": "user", "content": "weather?"}
    prompt = _encode([question], turns)
    generated = TOKENIZER.encode(
        "hm</think><tool_call> <function=f>\n<parameter=b>\n1\n</parameter>\n<parameter=a>\n3.0\n"
        "</parameter></function></tool_call>",
        allow_special=True,
    )
    call = {"id": "x", "function": {"name": "f", "arguments": '{"b":1,  "a":3.0}'}}
    turns.remember(prompt.tokens, [*generated, END], "", "hm", [call])

    def following(arguments):
        echoed = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "assistant", "content": None, "tool_calls": [echoed]}
        return _encode([question, answer, {"role": "tool", "content": "sun"}], turns).tokens

    exact = [*prompt.tokens, *generated, END]
    assert following({"a": 3.0, "b": 1})[: len(exact)] == exact
    assert following({"a": 3.0, "b": True})[: len(exact)] != exact


def _remembered(content="answer", reasoning="thought"):
    turns, question = TurnMemory(), {"role": "user", "content": "q"}
    prompt = _encode([question], turns)
    generated = _generated(reasoning, content, True, " ")
    turns.remember(prompt.tokens, generated, content, reasoning, None)
    return turns, question, prompt.tokens + generated


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "edited"},
        {"content": "answer", "reasoning_content": "edited"},
        {"content": "answer", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    ],
)
def test_an_edited_turn_is_rendered_plainly(answer):
    turns, question, _ = _remembered()
    messages = [question, {"role": "assistant", **answer}, question]
    assert _encode(messages, turns).tokens == _encode(messages, None).tokens


def test_other_turns_before_it_make_another_turn():
    turns, question, _ = _remembered()
    messages = [{"role": "system", "content": "s"}, question]
    messages += [{"role": "assistant", "content": "answer", "reasoning_content": "thought"}]
    assert _encode(messages, turns).tokens == _encode(messages, None).tokens


def test_thinking_that_the_template_drops_is_not_spliced_back():
    turns, question, _ = _remembered()
    messages = [question, {"role": "assistant", "content": "answer"}, question]
    plain = _encode(messages, None, preserve=False)
    assert _encode(messages, turns, preserve=False).tokens == plain.tokens


def test_an_answer_cut_off_is_closed_by_the_template():
    turns, question = TurnMemory(), {"role": "user", "content": "q"}
    prompt = _encode([question], turns)
    generated = TOKENIZER.encode("t</think>ha", allow_special=True)
    turns.remember(prompt.tokens, generated, "ha", "t", None)
    following = _encode([question, {"role": "assistant", "content": "ha"}], turns).tokens
    length = len(prompt.tokens) + len(generated)
    assert following[:length] == prompt.tokens + generated
    assert following[length] == END


def test_the_latest_of_equal_answers_wins():
    turns = TurnMemory()
    turns.remember([1, 2], [3], "a", "x", None)
    turns.remember([1, 2], [4], "a", "y", None)
    key = PrefixDigest([1]).after([2])
    assert turns.recall(key, "a", "", None) == [4]
    assert turns.recall(key, " a ", "x", []) == [3]
    assert turns.recall(key, "b", "", None) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=40))
def test_memory_is_bounded_and_keeps_the_latest(writes):
    turns, newest = TurnMemory(max_tokens=350), None
    for prefix, length in writes:
        turns.remember([prefix], [7] * length, str(length), "", None)
        newest = (prefix, length)
        assert turns.held_tokens <= 350
    if newest:
        prefix, length = newest
        assert turns.recall(PrefixDigest([prefix]).after([]), str(length), "", None) is not None


def test_memory_is_safe_from_many_threads():
    turns, failures = TurnMemory(max_tokens=900), []

    def work(seed):
        try:
            for n in range(300):
                prefix = [(seed * 7 + n) % 20]
                turns.remember(prefix, [n] * 5, str(n % 3), "", None)
                turns.recall(PrefixDigest(prefix).after([]), str(n % 3), "", None)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert turns.held_tokens <= 900
