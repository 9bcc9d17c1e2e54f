"""A call's arguments are reported while they are written: pieces of one JSON text, never more."""

import json
import re
import time
from itertools import accumulate

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.output import (
    ContentText,
    OutputParser,
    ToolCallArguments,
    ToolCallCut,
    ToolCallStart,
)
from server.output.arguments import typed

SCHEMAS = {
    "text": {"type": "string"},
    "choice": {"enum": ["a", "007", "</parameter>"]},
    "whole": {"type": "integer"},
    "yes": {"type": "boolean"},
    "list": {"type": "array"},
    "thing": {"type": "object"},
    "union": {"type": ["string", "integer", "null"]},
    "any": {},
    'k"\\é\ud800': {"type": "string"},
}
PARAMETERS = {"type": "object", "properties": SCHEMAS}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
UNDECIDED = 64  # most characters that may have to wait for the next
END = re.compile(r"\n</parameter>\n\s*(?:<parameter=|</function>|</tool_call>)")
CALL_END = "</function>\n</tool_call>"
FRAGMENTS = [
    *("</parameter>", "</parameter>\n", "</param", "<parameter=x>", "</function>", CALL_END),
    *("</tool_call>", "<tool_call>", "<function=f>", "</think>", "<|im_end|>", "<"),
    *("\n", "\n\n", "\r\n", " " * 40, '"', "\\", "\\u00", "é🦜", "\ud83d", "\ude00"),
    *("\x00\x1f\x7f\u2028", "007", "true", "null", '{"a": [1, {"b": null}]}', "1.50"),
    "[" * 30 + "]" * 30,
]

anything = st.text(st.characters(exclude_categories=()), max_size=4)
values = st.lists(st.sampled_from(FRAGMENTS) | anything, max_size=8).map("".join)
parameters = st.lists(st.tuples(st.sampled_from([*SCHEMAS, "new"]), values), max_size=5)
sizes = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def _written(given_parameters, name="f"):
    """A call as the chat template writes it."""
    written = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in given_parameters
    )
    return f"<tool_call>\n<function={name}>\n{written}{CALL_END}"


def _can_be_written(value):
    """Whether the value holds none of what ends a parameter: the form has no escapes."""
    found = END.search(f"\n{value}\n</parameter>\n</function>")
    return found is not None and found.start() == len(value) + 1


def _pieces(text, lengths):
    at = 0
    while at < len(text):
        for length in lengths:
            yield text[at : at + length]
            at += length


def _events(pieces):
    parser = OutputParser(thinking=False, tools=TOOLS)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def _arguments(events, index=0):
    return [
        event.text
        for event in events
        if isinstance(event, ToolCallArguments) and event.index == index
    ]


def _meant(given_parameters):
    """The arguments: of a repeated one, the first."""
    meant = {}
    for key, value in given_parameters:
        meant.setdefault(key, typed(value, SCHEMAS.get(key), PARAMETERS))
    return meant


@settings(max_examples=300)
@given(parameters, sizes)
def test_the_pieces_join_to_the_json_of_all_arguments(told, lengths):
    assume(all(_can_be_written(value) for _, value in told))
    whole = "".join(_arguments(_events([_written(told)])))
    events = _events(_pieces(_written(told), lengths))
    assert events[0] == ToolCallStart(0, "f")
    assert not [event for event in events if isinstance(event, (ContentText, ToolCallCut))]
    assert "".join(_arguments(events)) == whole
    whole.encode()
    meant = _meant(told)
    # Two halves of a surrogate pair, each alone in the text, are one character in JSON.
    pairs = json.loads(whole, object_pairs_hook=lambda pairs: pairs)
    assert isinstance(pairs, list)
    assert json.loads(whole) == json.loads(json.dumps(meant))
    assert [key for key, _ in pairs] == list(json.loads(json.dumps(meant)))
    plain = json.dumps(meant, ensure_ascii=False)
    if not re.search("[\ud800-\udfff]", plain):
        assert whole == plain


@given(parameters, st.integers(0, 300), sizes)
def test_a_cut_call_shows_a_beginning_of_its_arguments_and_no_more(told, left, lengths):
    assume(all(_can_be_written(value) for _, value in told))
    text = _written(told)
    full = "".join(_arguments(_events([text])))
    cut = text[: max(len(text) - left, text.index(">\n", 12) + 1)]
    events = _events(_pieces(cut, lengths))
    shown = "".join(_arguments(events))
    assert shown == "".join(_arguments(_events([cut])))
    if isinstance(events[-1], ToolCallCut):
        assert events[-1] == ToolCallCut(0)
        assert full.startswith(shown)
        assert shown != full
    else:
        # The model's own end of the call, were it meant or part of the last value.
        assert re.search(r"</function>\s*(</tool_call>\s*|<?/?\w*)\Z", cut)
        json.loads(shown)


@given(values)
def test_a_string_is_shown_while_it_is_written(value):
    """What was shown so far is a beginning of the value, in whole characters, and all of it but
    what may be the end."""
    assume(_can_be_written(value))
    parser = OutputParser(thinking=False, tools=TOOLS)
    opening = "<tool_call>\n<function=f>\n<parameter=text>\n"
    events = parser.feed(opening)
    assert events == [ToolCallStart(0, "f"), ToolCallArguments(0, '{"text": "')]
    shown = ""
    for fed, character in enumerate(value, 1):
        shown += "".join(_arguments(parser.feed(character)))
        # "surrogatepass" twice: JSON joins the halves of a pair.
        begun = json.loads(f'"{shown}"').encode("utf-16", "surrogatepass")
        text = value.encode("utf-16", "surrogatepass")
        assert text.startswith(begun)
        characters = fed - begun.decode("utf-16", "surrogatepass").count("")
        assert characters < UNDECIDED + value.count("\ude00")


def test_a_string_without_tags_is_shown_at_once():
    parser = OutputParser(thinking=False, tools=TOOLS)
    parser.feed("<tool_call>\n<function=f>\n<parameter=text>\n")
    for piece, shown in [
        ("def ", "def "),
        ('f(): "é"', 'f(): \\"é\\"'),
        ("\n", None),
        ("\n", "\\n"),
        ("a < b", "\\na < b"),
        ("</", None),
        ("p>", "</p>"),
        ("</parameter>\n", "</parameter>"),
        ("</parameter", None),
        (">", None),
        (" ", "\\n</parameter> "),
    ]:
        expected = [] if shown is None else [ToolCallArguments(0, shown)]
        assert parser.feed(piece) == expected, piece


def test_the_name_is_told_before_any_argument():
    parser = OutputParser(thinking=False, tools=TOOLS)
    assert parser.feed("<tool_call>\n<function=f") == []
    assert parser.feed(">") == [ToolCallStart(0, "f")]
    assert parser.feed("\n<parameter=whole") == []


def test_other_values_are_shown_when_they_are_complete():
    parser = OutputParser(thinking=False, tools=TOOLS)
    parser.feed("<tool_call>\n<function=f>\n")
    assert parser.feed("<parameter=whole>\n00") == []
    assert parser.feed("7\n</parameter>\n") == []
    assert parser.feed("<parameter=list>\n[1,") == [ToolCallArguments(0, '{"whole": "007"')]
    assert parser.feed("2]\n</parameter>\n</function>") == [
        ToolCallArguments(0, ', "list": [1, 2]}')
    ]


def test_of_a_repeated_argument_the_first_stands(caplog):
    told = [("text", "one"), ("whole", "1"), ("text", "two"), ("whole", "2"), ("yes", "true")]
    joined = "".join(_arguments(_events([_written(told)])))
    assert joined == '{"text": "one", "whole": 1, "yes": true}'
    assert [record.args for record in caplog.records] == [("f", "text"), ("f", "whole")]


def test_a_call_without_arguments_has_an_empty_object():
    assert _events([_written([])]) == [ToolCallStart(0, "f"), ToolCallArguments(0, "{}")]


def test_calls_are_counted_and_each_has_its_own_arguments():
    text = "\n".join(_written([("text", str(i)), ("whole", str(i))]) for i in range(3))
    events = _events(text)
    assert [event for event in events if isinstance(event, ToolCallStart)] == [
        ToolCallStart(i, "f") for i in range(3)
    ]
    for i in range(3):
        assert json.loads("".join(_arguments(events, i))) == {"text": str(i), "whole": i}


@pytest.mark.parametrize(
    ("cut", "shown"),
    [
        ("", ""),
        ("\n<parameter=te", ""),
        ("\n<parameter=text>", '{"text": "'),
        ("\n<parameter=text>\nabc\n", '{"text": "abc'),
        ("\n<parameter=text>\nabc\n</param", '{"text": "abc'),
        ("\n<parameter=text>\nabc\n</parameter>", '{"text": "abc'),
        ("\n<parameter=text>\nabc\n</parameter>\n</", '{"text": "abc'),
        ("\n<parameter=whole>\n12", ""),
        ("\n<parameter=text>\na\n</parameter>\n<parameter=whole>\n12", '{"text": "a"'),
        ("\n<parameter=whole>\n12\n</parameter>\n</functio", ""),
        ("\n<parameter=whole>\n12\n</parameter>\n<parameter=t", '{"whole": 12'),
    ],
)
def test_nothing_is_added_to_a_cut_call(cut, shown):
    text = f"Well.\n<tool_call>\n<function=f>{cut}"
    for pieces in ([text], text):
        events = _events(pieces)
        assert "".join(_arguments(events)) == shown
        assert events[-1] == ToolCallCut(0)
        said = [event.text for event in events if isinstance(event, ContentText)]
        assert "".join(said) == "Well."


def test_only_the_last_of_several_calls_is_cut():
    events = _events([_written([("text", "a")]) + "\n<tool_call>\n<function=f>\n<parameter=text>b"])
    assert "".join(_arguments(events)) == '{"text": "a"}'
    assert "".join(_arguments(events, 1)) == '{"text": "b'
    assert [event for event in events if isinstance(event, ToolCallCut)] == [ToolCallCut(1)]


def test_lines_of_any_kind_keep_their_ends():
    for value in ("a\r\nb\r\n", "\n\na", "a\n\n", "\r", "\n", " a ", "\t"):
        events = _events(_written([("text", value), ("any", value)]))
        assert json.loads("".join(_arguments(events))) == {"text": value, "any": value}


def test_a_value_ends_on_its_own_line_when_it_began_on_its_own():
    code = 'f("<parameter=a>x</parameter></function></tool_call>")'
    events = _events(_written([("text", code), ("any", code)]))
    assert json.loads("".join(_arguments(events))) == {"text": code, "any": code}


@pytest.mark.parametrize("value", ["", "x", "a\nb"])
def test_a_value_that_began_beside_its_tag_ends_beside_one(value):
    text = f"<tool_call><function=f><parameter=text>{value}</parameter><parameter=whole>1"
    events = _events(f"{text}</parameter></function></tool_call>")
    assert json.loads("".join(_arguments(events))) == {"text": value, "whole": 1}


def test_an_empty_value_may_have_one_newline_or_two():
    for newlines in ("\n", "\n\n"):
        text = f"<tool_call>\n<function=f>\n<parameter=text>{newlines}</parameter>\n</function>"
        assert "".join(_arguments(_events(text))) == '{"text": ""}'


PATTERNS = [
    "x = 1\n",
    "</parameter>",
    "</parameter> \n <parameter",
    "</function>\n",
    "</function></tool_call>",
    "\n",
    "<",
    " ",
]


def _seconds(text, size):
    started = time.process_time()
    events = _events(text[at : at + size] for at in range(0, len(text), size))
    assert isinstance(events[0], ToolCallStart)
    return time.process_time() - started


@pytest.mark.parametrize("key", ["text", "any"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_grows_with_the_length_of_a_value(pattern, key):
    """Also where all of it may be an end: sixteen times the text takes nowhere near 256 times."""
    for size in (5, 1 << 30):
        long = 16 * (short := 8_000 if size == 5 else 60_000)
        few, many = (
            _seconds(_written([(key, pattern * (length // len(pattern)))]), size)
            for length in (short, long)
        )
        assert many < 64 * max(few, 0.002), (size, few, many)


def test_time_grows_with_the_number_of_calls():
    text = _written([("text", "a"), ("whole", "1")])
    few, many = (_seconds(text * count, 1 << 30) for count in (500, 8_000))
    assert many < 64 * max(few, 0.002)


def test_a_megabyte_is_shown_as_it_comes():
    value = "x = 1 < 2\n" * 100_000 + "end"
    text = _written([("text", value)])
    parser = OutputParser(thinking=False, tools=TOOLS)
    pieces = ["".join(_arguments(parser.feed(piece))) for piece in _pieces(text, [9])]
    assert json.loads("".join(pieces)) == {"text": value}
    # A line break is two characters of JSON, so that at any time at least as much is shown.
    for number, shown in enumerate(accumulate(map(len, pieces))):
        assert 9 * number < shown + UNDECIDED + len("<tool_call>\n<function=f>\n<parameter=text>\n")
