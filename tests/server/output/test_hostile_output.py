"""Text that a model could be made to write costs its length, not its square: a parser that looked
back over all of it would not be done in the time a test has."""

from __future__ import annotations

import pytest

from server.output import ContentText, OutputParser, ReasoningText

LENGTH = 400_000
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}]
CALL = "<tool_call>\n<function=f>\n<parameter=a>\n"
HOSTILE = {
    "openings": ("", "<"),
    "halves of a tag": ("", "<tool_call"),
    "thoughts that end again and again": ("", "</think>"),
    "calls without a name": ("", "<tool_call>\n"),
    "functions without end": ("", "<function="),
    "blanks in a name": ("<tool_call><function=", " "),
    "blanks before a name": ("<tool_call>", " "),
    "a name without end": ("<tool_call><function=", "f"),
    "ends of a parameter that are none": (CALL, "</parameter>"),
    "ends of a parameter, spaced": (CALL, "</parameter> "),
    "ends of a function in a value": (CALL, "</function>\n"),
    "openings in a value": (CALL, "<"),
    "newlines": ("", "\n"),
    "newlines in a value": (CALL, "\n"),
    "characters without width": ("", "\u200b\u200d"),
    "joined emoji": ("", "👩\u200d👩\u200d👧"),
    "marks upon marks": ("", "\u0301"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_takes_its_length(what, thinking):
    before, piece = HOSTILE[what]
    parser = OutputParser(thinking, ("END",), TOOLS)
    text = before + piece * (LENGTH // len(piece))
    events = []
    for start in range(0, len(text), 50):
        events += parser.feed(text[start : start + 50])
    events += parser.finish()
    told = sum(len(e.text) for e in events if isinstance(e, (ContentText, ReasoningText)))
    assert told <= len(text)
