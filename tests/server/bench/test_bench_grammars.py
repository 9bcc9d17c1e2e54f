"""The benchmark of grammars finds what is wrong, and says what was refused and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.bench import main
from server.bench.grammars import spellings

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["a"]}


def case(folder: Path, name: str, schema: Any, **tests: list[Any]) -> None:
    made = [
        {"data": data, "valid": kind == "valid"} for kind, some in tests.items() for data in some
    ]
    (folder / name).write_text(json.dumps({"schema": schema, "tests": made}))


def test_a_receipt_of_schemas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case(tmp_path, "a.json", SCHEMA, valid=[{"a": 1, "b": 2.0}], invalid=[{}, {"a": 1, "b": "x"}])
    case(tmp_path, "b.json", {"type": "array", "uniqueItems": True}, valid=[[1]])
    assert main(["grammars", str(tmp_path), "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)
    counts = ("schemas", "enforced", "refused", "valid_instances", "invalid_instances", "wrong")
    assert [receipt[name] for name in counts] == [2, 1, 1, 1, 2, 0]
    assert receipt["refusals"] == {"b.json": "The keyword uniqueItems at / is not supported."}
    assert receipt["compile_us"]["count"] == 1
    assert receipt["mask_us"]["count"] > receipt["accept_us"]["count"] > 0
    assert receipt["conditions"]["tokens_in_the_vocabulary"] == 2048
    assert receipt["command"].startswith("mxserve bench grammars ")
    assert str(tmp_path.parent) not in receipt["command"]


def test_a_wrong_instance_is_told_and_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case(tmp_path, "a.json", {"type": "integer"}, valid=["x", 1], invalid=[2])
    assert main(["grammars", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "1 schemas, 0 refused, 2 valid instances, 1 invalid instances, 2 wrong" in told
    assert 'WRONG a.json: valid: "x"' in told
    assert "WRONG a.json: invalid: 2" in told


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": true}'])
def test_what_is_no_sample_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert main(["grammars", str(tmp_path)]) == 1
    assert "mxserve bench grammars: " in capsys.readouterr().err


def test_a_tokenizer_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case(tmp_path, "a.json", True, valid=[1])
    tokenizer = tmp_path / "other"
    tokenizer.mkdir()
    document = {"model": {"vocab": {"a": 0}}, "added_tokens": []}
    (tokenizer / "tokenizer.json").write_text(json.dumps(document))
    assert main(["grammars", str(tmp_path), "--tokenizer", str(tokenizer)]) == 1
    assert "<|im_end|>" in capsys.readouterr().err


def test_an_instance_may_be_written_in_the_schemas_order() -> None:
    texts = list(spellings({"a": 1, "b": 2.0}, [["b", "a"]]))
    assert texts[0] == '{"a": 1, "b": 2.0}'
    assert '{"b": 2, "a": 1}' in texts
    assert len(texts) == len(set(texts)) == 6
