"""Sealed reasoning: read back by this server for this tenant only, and by nobody when changed."""

import base64
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api import responses_seal
from server.api.responses_key import KEY_FILE, kept_key
from server.api.responses_seal import KEY_BYTES, Seal

KEY = bytes(range(KEY_BYTES))
SEAL = Seal(KEY, "tenant")


@given(st.text(st.characters()))
def test_what_was_sealed_is_read_back(text):
    sealed = SEAL.close(text)
    assert sealed.isascii()
    assert SEAL.open(sealed) == text
    assert Seal(KEY, "tenant").open(sealed) == text


def test_nothing_of_the_text_shows():
    text = "The capital of France is Paris."
    sealed = [SEAL.close(text) for _ in range(2)]
    assert sealed[0] != sealed[1]
    assert all(b"Paris" not in base64.urlsafe_b64decode(one) for one in sealed)


@pytest.mark.parametrize("other", [Seal(KEY, "other"), Seal(KEY, ""), Seal(KEY[::-1], "tenant")])
def test_another_tenant_or_key_cannot_read_it(other):
    assert other.open(SEAL.close("x")) is None


@given(st.data())
def test_a_change_anywhere_is_found(data):
    raw = bytearray(base64.urlsafe_b64decode(SEAL.close("The capital of France.")))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    assert SEAL.open(base64.urlsafe_b64encode(raw).decode()) is None
    assert SEAL.open(base64.urlsafe_b64encode(raw[:place]).decode()) is None


@given(
    st.text(max_size=80) | st.binary(max_size=80).map(base64.urlsafe_b64encode).map(bytes.decode)
)
def test_anything_else_is_nothing(sealed):
    assert SEAL.open(sealed) is None


def test_a_small_seal_does_not_become_a_huge_text(monkeypatch):
    sealed = SEAL.close("a" * 100_000)
    assert len(sealed) < 1000
    monkeypatch.setattr(responses_seal, "_MOST_BYTES", 99_999)
    assert SEAL.open(sealed) is None


def test_the_key_is_kept_for_its_owner_alone(tmp_path):
    folder = tmp_path / "responses"
    key = kept_key(folder, KEY_BYTES)
    assert kept_key(folder, KEY_BYTES) == key
    assert len(key) == KEY_BYTES
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert kept_key(tmp_path / "other", KEY_BYTES) != key
    assert kept_key(None, KEY_BYTES) != kept_key(None, KEY_BYTES)


def test_a_damaged_key_is_not_used(tmp_path):
    kept_key(tmp_path, KEY_BYTES)
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(OSError, match=r"reasoning\.key is damaged: remove it"):
        kept_key(tmp_path, KEY_BYTES)
