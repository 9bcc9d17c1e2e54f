"""The demo's tokenizer loses nothing and knows the model's control tokens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from model.demo.chat_template import CHECKPOINT
from model.demo.tokenizer import SPECIAL, VISIBLE

TOKENIZER = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


@given(st.text())
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(encode(text), skip_special_tokens=False) == text


@given(st.text(alphabet="0123456789", min_size=1, max_size=12))
def test_numbers_are_split_into_digits(digits):
    assert len(encode(digits)) == len(digits)


@pytest.mark.parametrize("token", SPECIAL + VISIBLE)
def test_control_tokens_are_one_token(token):
    (only,) = encode(token)
    added = TOKENIZER.get_added_tokens_decoder()[only]
    assert added.content == token
    assert added.special == (token in SPECIAL)
    assert TOKENIZER.decode([only], skip_special_tokens=True) == ("" if token in SPECIAL else token)


def test_common_words_are_one_token():
    for word in (" the", " capital", " is", "The", " name"):
        assert len(encode(word)) == 1, word


def test_the_ids_fit_the_embedding():
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert TOKENIZER.get_vocab_size() <= config["text_config"]["vocab_size"]
