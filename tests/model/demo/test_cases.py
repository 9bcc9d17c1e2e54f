"""What the demo is asked is what the server would feed it."""

import pytest

from model.demo.cases import END, MODES, Mode, cases_of
from model.demo.chat_template import CHECKPOINT
from model.demo.data.dialogue import make_dialogue
from model.demo.tokenizer import load_tokenizer
from model.prompt import encode_chat
from model.template import ChatTemplate
from model.thinking import CLOSING_TEXT
from model.tokenizer import Tokenizer

TOKENIZER = load_tokenizer(CHECKPOINT)
SERVED = Tokenizer.from_folder(CHECKPOINT)
TEMPLATE = ChatTemplate.from_folder(CHECKPOINT)
DIALOGUES = range(30)


@pytest.mark.parametrize("mode", ["thinking", "no thinking"])
def test_prompts_are_those_that_the_server_feeds(mode: Mode) -> None:
    for index in DIALOGUES:
        dialogue = make_dialogue("heldout", 2_000_000 + index, thinking=mode == "thinking")
        places = [i for i, m in enumerate(dialogue.messages) if m["role"] == "assistant"]
        cases = cases_of(index, mode, TOKENIZER)
        assert len(cases) == len(places)
        for place, case in zip(places, cases, strict=True):
            prompt = encode_chat(
                SERVED,
                TEMPLATE,
                dialogue.messages[:place],
                tools=dialogue.tools or None,
                enable_thinking=mode == "thinking",
                preserve_thinking=dialogue.preserve_thinking,
            )
            assert case.prompt == prompt.tokens
            assert case.shared == len(prompt.tokens) - prompt.generation_prompt_length


@pytest.mark.parametrize("mode", MODES)
def test_expected_tokens_end_with_the_answer(mode: Mode) -> None:
    for index in DIALOGUES:
        for case in cases_of(index, mode, TOKENIZER):
            text = TOKENIZER.decode(case.expected, skip_special_tokens=False)
            assert text.endswith(case.answer + END)
            assert (text == case.answer + END) == (mode != "thinking")


def test_a_cut_thought_is_shorter_and_closed() -> None:
    for index in DIALOGUES:
        pairs = zip(
            cases_of(index, "thinking", TOKENIZER),
            cases_of(index, "cut thinking", TOKENIZER),
            strict=True,
        )
        for whole, cut in pairs:
            assert cut.answer == whole.answer
            opening = len(whole.prompt)
            text = TOKENIZER.decode(cut.prompt[opening:], skip_special_tokens=False)
            assert cut.prompt[:opening] == whole.prompt
            assert text.endswith(CLOSING_TEXT)
            thought = TOKENIZER.decode(whole.expected, skip_special_tokens=False)
            assert thought.startswith(text.removesuffix(CLOSING_TEXT))
