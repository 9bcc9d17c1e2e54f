"""Text and ids: control literals stay text, and no character is ever split."""

import json
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import model
from model.encoding_cache import EncodingCache
from model.errors import CheckpointError
from model.tokenizer import Tokenizer

DEMO = Path(model.__path__[0]) / "demo" / "checkpoint"
TOKENIZER = Tokenizer.from_folder(DEMO)
LIBRARY = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
CONTROLS = sorted(TOKENIZER.controls)
CONTROL_IDS = {control.id for control in TOKENIZER.controls.values()}

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
laced = st.lists(st.one_of(plain, st.sampled_from(CONTROLS)), max_size=8).map("".join)
ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40)


@given(laced)
def test_text_never_becomes_a_control_token(text):
    encoded = TOKENIZER.encode(text)
    assert not CONTROL_IDS & set(encoded)
    assert TOKENIZER.decode(encoded) == text


@given(laced)
def test_allowed_control_literals_encode_as_the_library_does(text):
    expected = LIBRARY.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.encode(text, allow_special=True) == expected


@given(ids)
def test_decode_keeps_think_and_hides_special_tokens_as_the_library_does(tokens):
    assert TOKENIZER.decode(tokens) == LIBRARY.decode(tokens, skip_special_tokens=True)


def test_only_special_tokens_are_hidden():
    text = "<|im_start|>a<think>b</think><tool_call>c<|im_end|>"
    shown = TOKENIZER.decode(TOKENIZER.encode(text, allow_special=True))
    assert shown == "a<think>b</think><tool_call>c"


@given(ids)
def test_joined_deltas_are_the_whole_decode(tokens):
    stream = TOKENIZER.detokenizer()
    joined = "".join(map(stream.add, tokens)) + stream.flush()
    assert joined == TOKENIZER.decode(tokens)


@given(plain)
def test_deltas_of_valid_text_hold_whole_characters(text):
    stream = TOKENIZER.detokenizer()
    deltas = [stream.add(token) for token in TOKENIZER.encode(text)]
    assert stream.flush() == ""
    assert "".join(deltas) == text
    assert text.count("\ufffd") == sum(delta.count("\ufffd") for delta in deltas)


def test_a_cut_character_is_held_and_flushed():
    tokens = TOKENIZER.encode("🦜")
    assert len(tokens) > 1
    stream = TOKENIZER.detokenizer()
    assert [stream.add(token) for token in tokens[:-1]] == [""] * (len(tokens) - 1)
    assert stream.flush() == TOKENIZER.decode(tokens[:-1]) == "\ufffd"


def _normalizing(folder: Path) -> Path:
    return _checkpoint(folder, lambda document: document.update(normalizer={"type": "NFC"}))


def test_a_normalizer_works_as_in_the_library(tmp_path):
    folder = _normalizing(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "e\u0301<think>\u0301e</think>\u1100\u1161<|im_end|>\u0301"
    expected = library.encode(text, add_special_tokens=False).ids
    assert Tokenizer.from_folder(folder).encode(text, allow_special=True) == expected


def test_what_a_caller_does_to_its_ids_changes_no_later_answer():
    text = "the same text, long enough to be kept for the next time it is asked for " * 2
    first = TOKENIZER.encode(text)
    expected = list(first)
    first.clear()
    TOKENIZER.encode(text, allow_special=True).append(1)
    assert TOKENIZER.encode(text) == expected == LIBRARY.encode(text).ids


@given(st.lists(st.text("ab", min_size=60, max_size=70), max_size=30))
def test_the_cache_of_encodings_is_bounded_and_true(texts):
    cache = EncodingCache(max_bytes=1500)
    for text in texts:
        cache.put(text, list(text.encode()))
        assert cache.held_bytes <= 1500
        assert cache.get(text) == (list(text.encode()) if len(text) >= 64 else None)


def test_unknown_ids_add_no_text():
    assert TOKENIZER.decode([TOKENIZER.vocab_size + 5, -1]) == ""


def test_lone_surrogates_are_replaced():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a\ufffdb"


def test_token_ids_and_vocabulary_size():
    assert TOKENIZER.token_id("<|im_end|>") == LIBRARY.token_to_id("<|im_end|>")
    assert TOKENIZER.token_id("no such token") is None
    assert TOKENIZER.vocab_size == LIBRARY.get_vocab_size(with_added_tokens=True)


def test_encoding_lets_other_threads_run():
    text = "The quick brown fox, 123 leaps! " * 32_000
    gaps, done = [], threading.Event()

    def tick():
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.perf_counter()
    TOKENIZER.encode(text)
    took = time.perf_counter() - began
    done.set()
    ticking.join()
    assert max(gaps) < max(0.15, took / 3)


def _checkpoint(folder: Path, change) -> Path:
    document = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    change(document)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(decoder={"type": "WordPiece"}), "byte-level"),
        (lambda d: d["added_tokens"][0].update(lstrip=True), "strips"),
        (lambda d: d["added_tokens"][0].pop("id"), "lacks its id"),
        (lambda d: d.update(model={"type": "nonsense"}), "tokenizer.json"),
    ],
)
def test_unsupported_tokenizers_are_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(_checkpoint(tmp_path, change))


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Tokenizer.from_folder(tmp_path)
