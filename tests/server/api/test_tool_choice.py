"""Which tools are offered, which may be called, and the names an earlier API had for them."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server.api.errors import ApiError
from server.api.tool_choice import tool_choice_of
from server.api.tools import offered_tools
from server.engine.request import ToolChoice


def function(name, **more):
    return {"name": name, "parameters": {"type": "object", "properties": {}}, **more}


def tool(name, **more):
    return {"type": "function", "function": function(name, **more)}


A, B = tool("a"), tool("b")
NAMED = {"type": "function", "function": {"name": "b"}}
FLAT = {"type": "function", "name": "b"}


def allowed(mode, *tools):
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        (NAMED, ToolChoice("required", ("b",))),
        (FLAT, ToolChoice("required", ("b",))),
        (allowed("auto", NAMED), ToolChoice("auto", ("b",))),
        (allowed("required", FLAT, A, FLAT), ToolChoice("required", ("b", "a"))),
        ({"type": "allowed_tools", "mode": "auto", "tools": [FLAT]}, ToolChoice("auto", ("b",))),
        (allowed("auto"), ToolChoice("none")),
        (allowed("auto", {"type": "web_search"}), ToolChoice("none")),
        (allowed("auto", {"type": "web_search"}, NAMED), ToolChoice("auto", ("b",))),
    ],
)
def test_choice(served, choice, meant):
    request = served.request(tools=[A, B], tool_choice=choice)
    assert request.tool_choice == meant
    assert request.tools == [A, B]


@pytest.mark.parametrize(
    ("choice", "left"),
    [(None, [A, B]), ("none", []), ("required", [A, B]), (NAMED, [B]), (allowed("auto", A), [A])],
)
def test_what_the_choice_leaves(served, choice, left):
    assert served.request(tools=[A, B], tool_choice=choice).callable_tools == left
    assert served.request().callable_tools == []


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("b", "tool_choice must be"),
        (5, "got 5"),
        ([], "tool_choice must be"),
        ({}, "tool_choice must be"),
        ({"type": "tool", "name": "b"}, "tool_choice must be"),
        ({"type": "function", "function": {"name": 5}}, "tool_choice must be"),
        ({"type": "function", "function": {"name": "zz"}}, "not in tools: zz"),
        (allowed("auto", tool("zz")), "not in tools: zz"),
        (allowed("required", {"type": "web_search"}), "allows no function"),
        (allowed("required"), "allows no function"),
        (allowed("maybe", A), '"mode" (auto or required)'),
        ({"type": "allowed_tools"}, '"tools"'),
        (allowed("auto", {"type": "function"}), "without a name"),
        (allowed("auto", 5), "without a name"),
        (allowed("auto", *[A] * 513), "up to 512"),
    ],
)
def test_refused_choice(served, choice, words):
    response = served.chat(tools=[A, B], tool_choice=choice)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "tool_choice"
    assert words in error["message"]


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("tools", [None, [], [{"type": "web_search"}]])
def test_a_call_needs_a_tool(served, choice, tools):
    response = served.chat(tools=tools, tool_choice=choice)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tool_choice"


@pytest.mark.parametrize("choice", [None, "none", "auto"])
def test_no_call_needs_none(served, choice):
    assert served.request(tool_choice=choice).tools is None


@pytest.mark.parametrize(("given", "parallel"), [(None, True), (True, True), (False, False)])
def test_parallel(served, given, parallel):
    request = served.request(tools=[A], tool_choice="required", parallel_tool_calls=given)
    assert request.tool_choice == ToolChoice("required", None, parallel)


def test_strict_stays_with_its_tool(served):
    strict = tool("a", strict=True)
    assert served.request(tools=[strict, B]).tools == [strict, B]


def test_tools_of_a_namespace(served, caplog):
    wire = [
        A,
        {"type": "namespace", "name": "agents", "tools": [{"type": "function", **function("run")}]},
        {"type": "web_search"},
        {"type": "namespace", "name": "empty", "tools": []},
    ]
    with caplog.at_level(logging.WARNING):
        offered = offered_tools(wire)
    assert offered.functions == [A, tool("agents.run")]
    assert offered.namespaces == {"agents.run": ("agents", "run")}
    assert offered.names == ("a", "agents.run")
    assert "web_search" in caplog.text
    chosen = {"type": "function", "name": "agents.run"}
    request = served.request(tools=wire, tool_choice=chosen)
    assert request.tool_choice.names == ("agents.run",)


def test_flat_functions_keep_the_clients_order_of_keys():
    flat = {
        "type": "function",
        "strict": False,
        "parameters": {"type": "object", "b": 1, "a": 2},
        "name": "f",
        "defer_loading": True,
    }
    [told] = offered_tools([flat]).functions or []
    assert list(told["function"]) == ["strict", "parameters", "name"]
    assert list(told["function"]["parameters"]) == ["type", "b", "a"]


def test_one_name_is_one_tool(served):
    assert served.request(tools=[A, B, A]).tools == [A, B]
    response = served.chat(tools=[A, tool("a", description="another")])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[1]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "mode", "tools", "allowed_tools"]),
            inner | st.sampled_from(["function", "allowed_tools", "auto", "required", "a"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_choice_is_understood_or_refused(choice):
    named, meant = "tool_choice", ToolChoice()
    try:
        meant = tool_choice_of(choice, None, ["a"])
    except ApiError as error:
        named = error.param
    assert named == "tool_choice"
    assert meant.names in (None, ("a",))


@given(st.lists(JSON, max_size=4))
def test_any_tools_are_offered_or_refused(tools):
    named, names = "tools[", ()
    try:
        names = offered_tools(tools).names
    except ApiError as error:
        named = error.param or ""
    assert named.startswith("tools[")
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (None, ToolChoice("auto", None, False)),
        ("auto", ToolChoice("auto", None, False)),
        ("none", ToolChoice("none", None, False)),
        ({"name": "b"}, ToolChoice("required", ("b",), False)),
    ],
)
def test_functions_are_tools(served, call, meant):
    request = served.request(functions=[function("a"), function("b")], function_call=call)
    assert request.tools == [A, B]
    assert request.tool_choice == meant


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [function("a")], "tools": [A]}, "functions"),
        ({"functions": [function("a")], "function_call": {"name": "zz"}}, "function_call"),
        ({"functions": [{"name": "a b"}]}, "functions[0].name"),
        ({"function_call": {"name": "a"}}, "function_call"),
    ],
)
def test_refused_functions(served, fields, param):
    response = served.chat(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_function_call_in_its_own_shape(served, scripts):
    served.engine.script = scripts.tool_answer()
    response = served.chat(functions=[function("get_weather")])
    ChatCompletion.model_validate_json(response.text, strict=True)
    [choice] = response.json()["choices"]
    assert choice["finish_reason"] == "function_call"
    called = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert choice["message"]["function_call"] == called
    assert "tool_calls" not in choice["message"]


def test_a_streamed_function_call(served, scripts):
    served.engine.script = scripts.tool_answer()
    text = served.chat(functions=[function("get_weather")], stream=True).text
    frames = [part.removeprefix("data: ") for part in text.split("\n\n")[:-2]]
    for frame in frames:
        ChatCompletionChunk.model_validate_json(frame, strict=True)
    choices = [json.loads(frame)["choices"][0] for frame in frames]
    calls = [c["delta"]["function_call"] for c in choices if "function_call" in c["delta"]]
    assert calls[0] == {"name": "get_weather", "arguments": ""}
    assert [call for call in calls[1:] if "name" in call] == []
    assert "".join(call["arguments"] for call in calls) == '{"city": "Oslo"}'
    assert choices[-1]["finish_reason"] == "function_call"
