"""The yardstick: what of a prompt was seen before, on hand-made sequences and the demo template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.prompt import encode_chat
from model.template import ChatTemplate
from model.tokenizer import Tokenizer
from server.bench.client import BenchError
from server.bench.command import DEMO
from server.bench.ideal import PromptText, SeenPrefixes, end_tokens

END, BREAK = 99, 98
sequences = st.lists(st.integers(0, 3), max_size=8)


@given(st.lists(sequences, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_reuse_is_the_longest_common_prefix_but_never_the_whole_prompt(
    seen: list[list[int]], prompt: list[int]
) -> None:
    prefixes = SeenPrefixes([])
    for tokens in seen:
        prefixes.add(tokens)
    longest = max(
        (n for tokens in seen for n in range(len(prompt)) if tokens[:n] == prompt[:n]), default=0
    )
    reuse = prefixes.reuse(prompt)
    assert (reuse.prompt, reuse.anywhere, reuse.at_ends) == (len(prompt), longest, 0)
    assert reuse.new == len(prompt) - longest


def test_a_state_at_message_ends_resumes_there_and_nowhere_else() -> None:
    prefixes = SeenPrefixes([END])
    prefixes.add([1, 2, END, BREAK, 3, 4, END, BREAK, 7], stops=[9])
    edited = prefixes.reuse([1, 2, END, BREAK, 3, 5, END])  # the second message differs late
    assert (edited.new, edited.after_end) == (2, 3)
    extended = prefixes.reuse([1, 2, END, BREAK, 3, 4, END, BREAK, 7, 8])
    assert (extended.new, extended.after_end) == (1, 1)  # behind the cut answer
    before_break = prefixes.reuse([1, 2, END, 8])
    assert (before_break.new, before_break.after_end) == (1, 1)
    assert prefixes.reuse([2, 2]).after_end == 2


def test_the_same_prompt_again_costs_one_token() -> None:
    prefixes = SeenPrefixes([END])
    prefixes.add([1, END, BREAK, 5])
    assert prefixes.reuse([1, END, BREAK, 5]).new == 1


@pytest.fixture(scope="module")
def prompts() -> PromptText:
    return PromptText(DEMO)


CALL: dict[str, Any] = {
    "id": "x",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


def test_prompts_are_those_that_the_model_reads(prompts: PromptText) -> None:
    messages = [
        {"role": "system", "content": "Be concise."},
        {"role": "user", "content": "How warm is it in Rome?"},
        {"role": "assistant", "content": "", "reasoning_content": "Ask.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "x", "content": '{"temperature": 7}'},
    ]
    parsed = {**CALL, "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    for keep in (False, True):
        theirs = encode_chat(
            Tokenizer.from_folder(DEMO),
            ChatTemplate.from_folder(DEMO),
            [*messages[:2], {**messages[2], "tool_calls": [parsed]}, messages[3]],
            tools=[TOOL],
            enable_thinking=True,
            preserve_thinking=keep,
        )
        assert prompts.prompt(messages, [TOOL], thinking=True, keep=keep) == theirs.tokens


@pytest.mark.parametrize("thinking", [True, False])
def test_what_was_answered_extends_the_prompt_and_the_next_turn_extends_it(
    prompts: PromptText, thinking: bool
) -> None:
    question = [{"role": "user", "content": "7 + 5?"}]
    answer = {"role": "assistant", "content": "12", "reasoning_content": "Add." * thinking}
    first = prompts.prompt(question, [], thinking=thinking, keep=True)
    whole = prompts.after_answer(question, [], answer, thinking=thinking, keep=True, complete=True)
    following = [*question, answer, {"role": "user", "content": "And 8?"}]
    second = prompts.prompt(following, [], thinking=thinking, keep=True)
    assert whole[: len(first)] == first
    assert whole[-1] in prompts.ends
    assert second[: len(whole)] == whole
    stripped = prompts.prompt(following, [], thinking=thinking, keep=False)
    assert len(stripped) < len(second)


def test_an_answer_that_was_cut_ends_with_its_last_text(prompts: PromptText) -> None:
    question = [{"role": "user", "content": "Count."}]
    for answer in (
        {"role": "assistant", "content": "1 2 3", "reasoning_content": "So."},
        {"role": "assistant", "content": "", "reasoning_content": "1 2 3"},
    ):
        tokens = prompts.after_answer(
            question, [], answer, thinking=True, keep=False, complete=False
        )
        assert prompts._tokenizer.decode(tokens).endswith("1 2 3")


def test_broken_checkpoints_and_calls_are_told(tmp_path: Path, prompts: PromptText) -> None:
    with pytest.raises(BenchError, match="template"):
        PromptText(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x")
    with pytest.raises(BenchError, match="no tokenizer"):
        PromptText(tmp_path)
    assert end_tokens(tmp_path) == ()
    broken = {**CALL, "function": {"name": "f", "arguments": "{"}}
    message = {"role": "assistant", "content": "", "tool_calls": [broken]}
    with pytest.raises(BenchError, match="no JSON"):
        prompts.prompt([{"role": "user", "content": "x"}, message], [], thinking=True, keep=False)
