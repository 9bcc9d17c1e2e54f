"""The dialogues are reproducible, the split is real, and the loss falls on the right tokens."""

import re

from tokenizers import Tokenizer

from model.demo.chat_template import CHECKPOINT, render
from model.demo.data.arithmetic import worked
from model.demo.data.dialogue import Shape, make_dialogue
from model.demo.data.draw import Draw, is_held_out
from model.demo.data.encoding import encode, segments
from model.demo.data.lexicon import COUNTRIES
from model.thinking import CLOSING_TEXT


def test_the_same_seed_gives_the_same_dialogue():
    for seed in range(50):
        first, second = make_dialogue("train", seed), make_dialogue("train", seed)
        assert first == second
        assert first.messages != make_dialogue("heldout", seed).messages


def sums(split, seeds):
    found = set()
    for seed in range(seeds):
        for message in make_dialogue(split, seed).messages:
            if message.get("skill") == "sum":
                a, b, total = map(int, re.findall(r"\d+", message["content"]))
                assert a + b == total
                found.add((a, b))
    return found


def test_no_sum_is_on_both_sides_of_the_split():
    trained, kept = sums("train", 400), sums("heldout", 400)
    assert len(trained) > 100
    assert len(kept) > 50
    assert not trained & kept
    assert all(is_held_out("sum", pair) for pair in kept)


def test_about_one_payload_in_ten_is_held_out():
    share = sum(is_held_out("sum", (a, b)) for a in range(100) for b in range(100)) / 10_000
    assert 0.08 < share < 0.12


def test_payloads_stay_on_their_side():
    for split in ("train", "heldout"):
        draw = Draw(split, 7)
        value = draw.payload("word", lambda draw=draw: draw.integer(0, 9999))
        assert is_held_out("word", value) == (split == "heldout")


def test_worked_sums_are_right():
    assert worked(47, 38) == (
        "Ones: 7 + 8 = 15, write 5, carry 1. Tens: 4 + 3 + 1 = 8. So 47 + 38 = 85."
    )


def test_sixty_countries_and_more_with_different_capitals():
    assert len(COUNTRIES) >= 60
    assert len({c.name for c in COUNTRIES}) == len({c.capital for c in COUNTRIES}) == len(COUNTRIES)


def test_thinking_on_and_off_ask_for_the_same_answers():
    for seed in range(30):
        on = make_dialogue("heldout", seed, thinking=True)
        off = make_dialogue("heldout", seed, thinking=False)
        assert [m["content"] for m in on.messages] == [m["content"] for m in off.messages]
        for message in off.messages:
            assert message["role"] != "assistant" or message["reasoning_content"] == ""


def test_segments_join_to_the_rendered_dialogue():
    for seed in range(100):
        dialogue = make_dialogue("train", seed)
        text = render(
            dialogue.messages, tools=dialogue.tools, preserve_thinking=dialogue.preserve_thinking
        )
        pieces = segments(dialogue)
        assert "".join(piece for piece, _ in pieces) + "\n" == text
        answers = [m for m in dialogue.messages if m["role"] == "assistant"]
        learned = [piece for piece, target in pieces if target]
        assert len(learned) == len(answers)
        assert all(piece.endswith("<|im_end|>") for piece in learned)


def test_cut_thoughts_are_closed_and_not_learned():
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    dialogues = [d for d in (make_dialogue("train", s) for s in range(200)) if d.cuts]
    skills: set[str] = set()
    for dialogue, example in zip(dialogues, encode(dialogues, tokenizer), strict=True):
        past = ""
        replies = [m for m in dialogue.messages if m["role"] == "assistant"]
        assert len(replies) == len(example.answers) == len(dialogue.cuts)
        for message, (start, end, skill) in zip(replies, example.answers, strict=True):
            past = tokenizer.decode(example.ids[:start], skip_special_tokens=False)
            said = tokenizer.decode(example.ids[start:end], skip_special_tokens=False)
            assert not example.learned[start - 1]
            assert "</think>" not in said.removesuffix("<|im_end|>")
            assert said.removesuffix("<|im_end|>").startswith(message["content"])
            if past.endswith(CLOSING_TEXT):
                skills.add(skill)
        assert past.endswith(CLOSING_TEXT)  # the last thought is always there
    assert {"tool call", "tool result", "repeat", "sum", "recall"} <= skills


def test_the_mask_covers_exactly_the_answers():
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    dialogues = [make_dialogue("train", seed, Shape(turns=4)) for seed in range(40)]
    for example in encode(dialogues, tokenizer):
        assert len(example.ids) == len(example.learned)
        assert sum(example.learned) == sum(end - start for start, end, _ in example.answers)
