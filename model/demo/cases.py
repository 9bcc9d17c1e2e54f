"""The questions that the demo is scored on: every answer of every held-out dialogue.

Each dialogue is asked three times: with thinking, without, and with the thought cut at a random
token and closed as a spent budget does. An answer is asked for on its own, after the right past.
Knows texts and token ids, no network.
"""

from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

from model.thinking import CLOSING_TEXT

from .chat_template import render
from .data.dialogue import make_dialogue
from .data.draw import Draw
from .data.encoding import END_OF_THOUGHT

Mode = Literal["thinking", "no thinking", "cut thinking"]

FIRST_SEED = 2_000_000  # of the held-out side; training scores itself on other seeds
MODES: tuple[Mode, ...] = ("thinking", "no thinking", "cut thinking")
END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to give.

    prompt, expected: token ids; `shared` of the prompt's come before what opens the answer, and
    later answers of the dialogue may have them in common. answer: the text that counts, without
    thought and end.
    """

    prompt: list[int]
    expected: list[int]
    shared: int
    answer: str
    skill: str
    mode: Mode
    dialogue: int


def cases_of(index: int, mode: Mode, tokenizer: Tokenizer) -> list[Case]:
    """The answers of the held-out dialogue number `index`, in their order."""
    seed = FIRST_SEED + index
    thinking = mode != "no thinking"
    dialogue = make_dialogue("heldout", seed, thinking=thinking)
    draw = Draw("heldout", seed)
    options: dict[str, Any] = {
        "tools": dialogue.tools,
        "preserve_thinking": dialogue.preserve_thinking,
    }

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    cases = []
    for i, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        before = dialogue.messages[:i]
        opened = render(before, **options, add_generation_prompt=True, enable_thinking=thinking)
        completion = render([*before, message], **options).removeprefix(opened).removesuffix("\n")
        prompt = ids(opened)
        # The text before the opening ends with control token and line feed: its ids are a prefix.
        shared = len(ids(opened[: opened.rindex("<|im_start|>")]))
        thought, _, answer = completion.rpartition(END_OF_THOUGHT)
        if mode == "cut thinking":
            kept = ids(thought)
            prompt += kept[: draw.integer(0, len(kept) - 1)] + ids(CLOSING_TEXT)
            completion = answer
        cases.append(
            Case(
                prompt=prompt,
                expected=ids(completion),
                shared=shared,
                answer=answer.removesuffix(END),
                skill=message["skill"],
                mode=mode,
                dialogue=index,
            )
        )
    return cases
