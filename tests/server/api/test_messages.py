"""Messages and tools as clients send them, and as the engine gets them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.errors import ApiError
from server.api.messages import template_messages

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS)
CALLS = st.lists(st.fixed_dictionaries({}, optional={"id": JSON, "function": JSON}), max_size=2)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text")}, optional={"text": JSON}))
FIELDS = {
    "content": JSON | PARTS,
    "tool_calls": JSON | CALLS,
    "reasoning_content": JSON,
    "function_call": JSON,
    "tool_call_id": JSON,
}
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])


def user(content):
    return {"role": "user", "content": content}


def test_strings_parts_and_null(served):
    wire = [
        {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": {}}]},
        user([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]),
        {"role": "assistant", "content": [{"type": "output_text", "text": "d"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        user(""),
    ]
    assert served.request(messages=wire).messages == [
        {"role": "system", "content": "S"},
        user("abc"),
        {"role": "assistant", "content": "d"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": ""},
        user(""),
    ]


def test_instructions_anywhere_keep_their_place():
    wire = [
        {"role": "developer", "content": "A"},
        {"role": "system", "content": "B"},
        user("x"),
        {"role": "developer", "content": "C"},
        user("y"),
    ]
    roles = [message["role"] for message in template_messages(wire)]
    assert roles == ["system", "system", "user", "system", "user"]


def test_instructions_alone_are_the_question():
    messages = template_messages([{"role": "system", "content": "Say hi."}])
    assert messages == [user("Say hi.")]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_comes_back_under_either_name(name):
    wire = [user("x"), {"role": "assistant", "content": "y", name: "because"}]
    assert template_messages(wire)[1]["reasoning_content"] == "because"


def test_tool_turns(served):
    wire = [
        user("Weather in Oslo?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
    ]
    messages = served.request(messages=wire).messages
    assert messages[1]["tool_calls"] == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Oslo"}},
        }
    ]
    assert messages[2] == {"role": "tool", "content": "rain", "tool_call_id": "call_1"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ('{"a": ', {"arguments": '{"a": '}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_in_history(arguments, expected):
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    wire = [user("x"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    [told] = template_messages(wire)[1]["tool_calls"]
    assert told["function"]["arguments"] == expected


@pytest.mark.parametrize("order", ["abc", "cab", "bca", "cba"])
def test_results_stand_in_the_order_of_their_calls(order):
    """A prompt tells them apart by nothing else."""
    calls = [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in "abc"]
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in order]
    stray = {"role": "tool", "tool_call_id": "z", "content": "z"}
    wire = [user("x"), {"role": "assistant", "tool_calls": calls}, stray, *results, user("y")]
    told = template_messages([*wire, stray, *results])
    assert [m["content"] for m in told] == ["x", "", *"abcz", "y", "z", *order]


def test_legacy_function_turns():
    wire = [
        user("x"),
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    messages = template_messages(wire)
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert messages[2] == {"role": "tool", "content": "1"}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": "robot", "content": "x"}, "messages[1].role"),
        ({"role": ["user"], "content": "x"}, "messages[1].role"),
        (user(5), "messages[1].content"),
        (user([5]), "messages[1].content[0]"),
        (user([{"type": "text"}]), "messages[1].content[0]"),
        (user([{"type": "text", "text": 5}]), "messages[1].content[0]"),
        (user([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]),
         "messages[1].content[0]"),
        (user([{"type": "input_audio", "input_audio": {}}]), "messages[1].content[0]"),
        (user([{"type": "file"}]), "messages[1].content[0]"),
        ({"role": "assistant", "tool_calls": "x"}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": ""}}]},
         "messages[1].tool_calls[0]"),
    ],
)  # fmt: skip
def test_bad_messages_are_named(served, message, param):
    response = served.chat(messages=[user("ok"), message])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(JSON | st.fixed_dictionaries({"role": ROLES}, optional=FIELDS), max_size=3))
def test_any_json_becomes_messages_or_an_api_error(wire):
    try:
        messages = template_messages(wire)
    except ApiError as error:
        messages = []
        named = error.param
    else:
        named = "messages"
    assert named is not None
    assert named.startswith("messages")
    for message in messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert isinstance(message["content"], str)
        for call in message.get("tool_calls", []):
            assert isinstance(call["function"]["arguments"], dict)


WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "strict": True, "parameters": {"type": "object"}},
}


def test_tools_reach_the_engine(served):
    others = [{"type": "web_search"}, {"type": "namespace", "tools": []}, {"type": "custom"}]
    assert served.request(tools=[WEATHER, *others]).tools == [WEATHER]
    assert served.request(tools=[WEATHER], tool_choice="auto").tools == [WEATHER]
    assert served.request(tools=[WEATHER], tool_choice="none").tools == [WEATHER]
    assert served.request(tools=others).tools is None
    assert served.request(tools=[]).tools is None


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ("x", "tools[0]"),
        ({"type": "function"}, "tools[0].function"),
        ({"type": "function", "function": {}}, "tools[0].function.name"),
        ({"type": "function", "function": {"name": "a b"}}, "tools[0].function.name"),
        ({"type": "function", "function": {"name": "</tool>"}}, "tools[0].function.name"),
        ({"function": {"name": "f", "parameters": []}}, "tools[0].function.parameters"),
        ({"function": {"name": "f", "description": 1}}, "tools[0].function.description"),
        ({"function": {"name": "f", "strict": "yes"}}, "tools[0].function.strict"),
        ({"type": "function", "name": "a b"}, "tools[0].name"),
        ({"type": "namespace", "name": "n"}, "tools[0].tools"),
        ({"type": "namespace", "name": "a b", "tools": [WEATHER]}, "tools[0].name"),
        ({"type": "namespace", "name": "n", "tools": [1]}, "tools[0].tools[0]"),
    ],
)
def test_bad_tools_are_named(served, tool, param):
    response = served.chat(tools=[tool])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_too_many_tools(served):
    assert "up to 512" in served.chat(tools=[WEATHER] * 513).json()["error"]["message"]
