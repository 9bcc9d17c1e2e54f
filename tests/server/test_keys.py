"""Keys: hashes only, a private file, `mxserve key`, and a ring that follows its file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from server import keys
from server.key_command import main
from server.keys import (
    KeyFileError,
    KeyRecord,
    KeyRing,
    clients_key,
    new_key,
    read_key_file,
    write_key_file,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mxserve" / "keys.json"


def made(path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The key that the command makes and shows."""
    assert main(["new", name, "--file", str(path)]) == 0
    return capsys.readouterr().out.strip()


def test_a_record_knows_its_key_and_no_other():
    key = new_key()
    record = KeyRecord.of("a", key)
    assert record.matches(key)
    for other in ("", key[:-1], key + "x", key.upper(), "ключ"):
        assert not record.matches(other)
    assert KeyRecord.of("a", key).sha256 != record.sha256, "each has a salt of its own"


def test_keys_are_long_and_never_the_same():
    found = {new_key() for _ in range(100)}
    assert len(found) == 100
    assert all(len(key) >= 43 and key.isascii() for key in found)


def test_the_file_is_private_and_has_no_key_in_it(path, capsys):
    key = made(path, "laptop", capsys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text(encoding="utf-8")
    assert key not in text
    assert key.removeprefix(keys.PREFIX) not in text
    [record] = read_key_file(path)
    assert record.name == "laptop"
    assert record.matches(key)
    assert sorted(path.parent.iterdir()) == [path], "no other file is left"


def test_new_list_remove(path, capsys):
    laptop, phone = made(path, "laptop", capsys), made(path, "phone", capsys)
    assert laptop != phone
    assert main(["list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert "laptop" in listed
    assert "phone" in listed
    assert laptop not in listed
    assert main(["remove", "laptop", "--file", str(path)]) == 0
    ring = KeyRing(path=path)
    assert ring.name_of(phone) == "phone"
    assert ring.name_of(laptop) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "laptop"], "has a key of the name"),
        (["new", "../x"], "a name has 1 to 64"),
        (["new", "a\nb"], "a name has 1 to 64"),
        (["remove", "nobody"], "has no key of the name"),
    ],
)
def test_mistakes_are_said(path, capsys, arguments, words):
    made(path, "laptop", capsys)
    before = path.read_bytes()
    assert main([*arguments, "--file", str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert path.read_bytes() == before


def test_the_environment_names_the_file(path, capsys, monkeypatch):
    monkeypatch.setenv("MXSERVE_KEY_FILE", str(path))
    assert main(["new", "ci"]) == 0
    assert KeyRing(path=path).name_of(capsys.readouterr().out.strip()) == "ci"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": 2, "keys": []}',
        '{"format": 1}',
        '{"format": 1, "keys": [{"name": "a"}]}',
        '{"format": 1, "keys": [{"name": "a b", "created": 0, "salt": "", "sha256": ""}]}',
        '{"format": 1, "keys": [{"name": "a", "created": 0, "salt": "zz", "sha256": "00"}]}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        read_key_file(path)


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(path, mode):
    write_key_file(path, [KeyRecord.of("a", "k")])
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_key_file(path)


def test_too_many_keys_are_refused(path, capsys):
    records = [KeyRecord.of(f"k{i}", "x") for i in range(keys.MAX_KEYS)]
    write_key_file(path, records)
    assert main(["new", "more", "--file", str(path)]) == 1
    assert "the most there can be" in capsys.readouterr().err
    write_key_file(path, [*records, KeyRecord.of("more", "x")])
    with pytest.raises(KeyFileError, match="more than"):
        read_key_file(path)


def test_a_ring_of_given_and_filed_keys(path):
    write_key_file(path, [KeyRecord.of("filed", "f")])
    ring = KeyRing(["a", "b"], path)
    assert [ring.name_of(key) for key in ("a", "b", "f", "c", "")] == [
        "key-1", "key-2", "filed", None, None,
    ]  # fmt: skip
    assert ring
    assert not KeyRing()


def test_every_key_is_tried_in_constant_time(monkeypatch):
    """Which key it is, or that it is none, changes nothing in how many are compared."""
    compared = []
    compare = keys.hmac.compare_digest
    monkeypatch.setattr(
        keys.hmac, "compare_digest", lambda a, b: compared.append(len(a)) or compare(a, b)
    )
    ring = KeyRing(["first", "second", "third"])
    for key in ("first", "third", "none", "", "x" * 10_000):
        compared.clear()
        ring.name_of(key)
        assert compared == [32, 32, 32]


def test_a_running_ring_follows_its_file(path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    write_key_file(path, [KeyRecord.of("a", "1"), KeyRecord.of("b", "2")])
    ring = KeyRing(path=path)
    write_key_file(path, [KeyRecord.of("b", "2"), KeyRecord.of("c", "3")])
    now[0] += 2 * keys.LOOK_EVERY_S
    assert [ring.name_of(key) for key in "123"] == [None, "b", "c"]
    path.write_text("damaged", encoding="utf-8")
    os.utime(path, ns=(1, 1))
    now[0] += 2 * keys.LOOK_EVERY_S
    assert ring.name_of("2") == "b", "a damaged file changes nothing"
    path.unlink()
    now[0] += 2 * keys.LOOK_EVERY_S
    assert ring.name_of("2") is None, "a file that is gone has no keys"
    assert ring, "and a key is needed all the same"


@pytest.mark.parametrize(("value", "key"), [("a", "a"), ("a, b", "a"), ("", None), (None, None)])
def test_a_client_presents_the_first_of_several(monkeypatch, value, key):
    monkeypatch.delenv("MXSERVE_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MXSERVE_API_KEY", value)
    assert clients_key() == key


def test_the_format_is_written_down(path):
    write_key_file(path, [KeyRecord("a", 5, "00", "11" * 32)])
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "format": 1,
        "keys": [{"name": "a", "created": 5, "salt": "00", "sha256": "11" * 32}],
    }
