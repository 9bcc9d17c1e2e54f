"""Lines of the log: one for a record, whatever the record says."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.log import FORMAT, JsonLine, OneLine

FORGED = '\r\n2026-01-01 00:00:00,000 INFO    server: {"level":"error"} \x1b[31m\u2028\x85'
FORMS = {"text": OneLine(FORMAT), "json": JsonLine()}


def record(message: str, error: bool = False, **fields: object) -> logging.LogRecord:
    found = logging.LogRecord("server.test", logging.INFO, "", 1, "%s", (message,), None)
    found.fields = fields
    if error:
        try:
            raise ValueError(message)
        except ValueError:
            found.exc_info = sys.exc_info()
    return found


@pytest.mark.parametrize("form", FORMS)
@given(text=st.text() | st.just(FORGED))
def test_no_text_forges_a_line(form, text):
    line = FORMS[form].format(record(text, user=text))
    assert len(line.splitlines()) == 1
    assert line.isprintable()


@given(text=st.text() | st.just(FORGED))
def test_a_traceback_is_indented_in_text(text):
    first, *others = FORMS["text"].format(record("failed", error=True, x=text)).splitlines()
    assert first.endswith(f"failed x={text}") or "failed x=" in first
    assert others
    assert all(line.startswith("    | ") and line.isprintable() for line in others)
    lines = FORMS["text"].format(record(text, error=True)).splitlines()
    assert all(line.startswith("    | ") for line in lines[1:])


def test_a_traceback_is_a_field_in_json():
    line = FORMS["json"].format(record(FORGED, error=True))
    assert len(line.splitlines()) == 1
    assert "ValueError" in json.loads(line)["exception"]


def test_fields_in_json_keep_their_types_and_cannot_replace_ours():
    found = json.loads(FORMS["json"].format(record("GET /", tokens=3, level="forged", ttft_s=0.5)))
    assert found["tokens"] == 3
    assert found["ttft_s"] == 0.5
    assert found["level"] == "info"
    assert found["time"].endswith("Z")
    assert found["message"] == "GET /"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("abc-1.5", "x=abc-1.5"), ("a b", 'x="a b"'), ("a=b", 'x="a=b"'), ("", 'x=""'), (7, "x=7")],
)
def test_fields_in_text_are_told_apart(value, shown):
    assert FORMS["text"].format(record("m", x=value)).endswith(f" m {shown}")
