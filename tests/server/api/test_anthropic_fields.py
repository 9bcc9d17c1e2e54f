"""Fields of /v1/messages: what each becomes in the engine's request, and what is a mistake."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import GrammarSpec, Thinking, ToolChoice

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "Weather", "input_schema": SCHEMA}
BUDGETS = {"low": 1, "high": 2}


@pytest.fixture
def post(served):
    def send(path="/v1/messages", headers=None, **fields):
        body = {"model": "m", "max_tokens": 50, "messages": HI, **fields}
        body = {name: value for name, value in body.items() if value is not ...}
        return served.http.post(path, json=body, headers=headers)

    return send


@pytest.fixture
def asked(served, post):
    """The engine request that fields become."""

    def send(**fields):
        response = post(**fields)
        assert response.status_code == 200, response.text
        return served.engine.requests[-1]

    return send


def test_the_plain_request(asked):
    request = asked()
    assert request.messages == HI
    assert (request.max_tokens, request.n, request.stop) == (50, 1, ())
    assert request.thinking == Thinking(enabled=False)
    assert (request.tools, request.grammar, request.continue_final) == (None, None, False)
    assert request.tool_choice == ToolChoice()
    assert request.sampling.temperature == 0.7  # the checkpoint's own


def test_sampling(asked):
    sampling = asked(temperature=0.25, top_p=0.5, top_k=7).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, Thinking(enabled=False)),
        ({"thinking": None}, Thinking(enabled=False)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(budget=2048)),
        ({"thinking": {"type": "enabled"}}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, Thinking(enabled=False)),
        ({"thinking": {"type": "between_tools"}}, Thinking(enabled=False)),
        ({"output_config": {"effort": "high"}}, Thinking(enabled=False)),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "none"}},
            Thinking(enabled=False),
        ),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, Thinking()),
    ],
)
def test_thinking(asked, fields, told):
    assert asked(**fields).thinking == told


def test_an_effort_is_a_budget(launch):
    served = launch(effort_budgets={"low": 100})
    for budget, least in ((None, 100), (50, 50), (5000, 100)):
        body = {
            "max_tokens": 50,
            "messages": HI,
            "thinking": {"type": "enabled", "budget_tokens": budget},
            "output_config": {"effort": "low"},
        }
        assert served.http.post("/v1/messages", json=body).status_code == 200
        assert served.engine.requests[-1].thinking.budget == least


def test_thinking_between_tools(asked):
    used = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}
    told = {"type": "tool_result", "tool_use_id": "a", "content": "fine"}
    messages = [
        *HI,
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [told, {"type": "text", "text": "So?"}]},
    ]
    assert asked(messages=messages, thinking={"type": "between_tools"}).thinking == Thinking()


def test_stop_sequences(asked):
    assert asked(stop_sequences=["a", " b"]).stop == ("a", " b")
    assert asked(stop_sequences=[]).stop == ()


def test_tools(asked):
    marked = {**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}, "strict": True}
    request = asked(tools=[marked])
    function = {
        "name": "get_weather",
        "description": "Weather",
        "parameters": SCHEMA,
        "strict": True,
    }
    assert request.tools == [{"type": "function", "function": function}]
    assert list(request.tools[0]["function"]) == ["name", "description", "parameters", "strict"]


def test_tools_of_the_vendors_service_are_left_out(asked, caplog):
    own = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    ]
    request = asked(tools=[*own, TOOL])
    assert [tool["function"]["name"] for tool in request.tools] == ["get_weather"]
    assert "web_search_20250305" in caplog.text
    assert asked(tools=own).tools is None


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "any", "disable_parallel_tool_use": False}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "get_weather"}, ToolChoice("required", ("get_weather",))),
        (
            {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
            ToolChoice("required", ("get_weather",), False),
        ),
    ],
)
def test_tool_choice(asked, choice, told):
    request = asked(tools=[TOOL], tool_choice=choice)
    assert request.tool_choice == told
    assert len(request.tools) == 1


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_structured_output(asked, name):
    form = {"type": "json_schema", "schema": SCHEMA}
    field = form if name == "output_format" else {"format": form}
    place = "output_format.schema" if name == "output_format" else "output_config.format.schema"
    assert asked(**{name: field}).grammar == GrammarSpec("json_schema", SCHEMA, place)


def test_a_prefilled_answer_is_continued(asked):
    request = asked(messages=[*HI, {"role": "assistant", "content": "The answer is ("}])
    assert request.continue_final


CLAUDE_CODE = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s-1"})


@pytest.mark.parametrize(
    ("user", "session"),
    [
        (CLAUDE_CODE, "s-1"),
        ("user-7", "user-7"),
        ('{"device_id": "d"}', '{"device_id": "d"}'),
        ('{"session_id": 5}', '{"session_id": 5}'),
        ("{not json", "{not json"),
        ("{}", "{}"),
        ("", None),
        (None, None),
    ],
)
def test_the_session(asked, user, session):
    assert asked(metadata={"user_id": user}).session == session


def test_a_session_header_wins(asked):
    headers = {"X-Claude-Code-Session-Id": "h"}
    assert asked(metadata={"user_id": CLAUDE_CODE}, headers=headers).session == "h"


def test_what_changes_nothing_is_accepted(asked):
    plain = asked()
    request = asked(
        service_tier="auto",
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        container="c",
        mcp_servers=[],
        cache_control={"type": "ephemeral"},
        speed="fast",
        inference_geo="us",
        diagnostics={"previous_message_id": None},
        betas=["x"],
        something_new=[1],
        stream=None,
        stop_sequences=None,
        tools=None,
        tool_choice=None,
        output_config=None,
        output_format=None,
        metadata=None,
        system=None,
        top_k=None,
        headers={"anthropic-version": "2023-06-01", "anthropic-beta": "a-2025,b-2026"},
        path="/v1/messages?beta=true",
    )
    assert request == plain


def test_nothing_wanted_but_the_prompt_read(served, post):
    """max_tokens 0 warms the cache, as with Anthropic's service."""
    body = post(max_tokens=0).json()
    assert served.engine.requests[-1].max_tokens == 1
    assert body["content"] == []
    assert body["stop_reason"] == "max_tokens"
    assert body["usage"]["output_tokens"] == 0


MISTAKES = {
    "max_tokens": [..., None, -1, "5", 1.5, True],
    "messages": [..., [], "Hi", None],
    "stream": ["yes", 1],
    "temperature": [-0.1, 2.5, "hot"],
    "top_p": [0, 1.5],
    "top_k": [-2],
    "stop_sequences": ["a", [""], ["x"] * 17, [5]],
    "tools": ["x", {}, [5], [{}], [{"name": "f"}], [{**TOOL, "name": ""}]],
    "tool_choice": ["auto", 5, {}, {"type": "maybe"}, {"type": "tool"}, {"type": "any"}],
    "thinking": ["on", {}, {"type": "perhaps"}, {"type": "enabled", "budget_tokens": -1}],
    "output_config": ["x", {"effort": "extreme"}, {"format": {"type": "xml"}}, {"format": 5}],
    "output_format": [{"type": "json_schema"}, {"type": "json_schema", "schema": "x"}],
    "metadata": ["x", {"user_id": 5}],
    "system": [5, [{"type": "image"}]],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in MISTAKES.items() for value in values]
)
def test_mistakes_name_their_field(post, served, field, value):
    response = post(**{field: value})
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert field in body["error"]["message"]
    assert served.engine.requests == []


def test_a_tool_that_is_not_offered(post):
    choice = {"type": "tool", "name": "get_time"}
    assert "get_time" in post(tools=[TOOL], tool_choice=choice).json()["error"]["message"]
    twice = [TOOL, {**TOOL, "description": "Other"}]
    assert "tools[1]" in post(tools=twice).json()["error"]["message"]


@pytest.fixture(scope="session")
def launched(launch):
    return launch()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    fields=st.dictionaries(st.sampled_from([*MISTAKES, "model", "x"]), json_values, max_size=3),
    count=st.booleans(),
)
def test_any_fields_are_answered_or_refused(launched, fields, count):
    body = {"max_tokens": 50, "messages": HI, **fields}
    path = "/v1/messages/count_tokens" if count else "/v1/messages"
    response = launched.http.post(path, json=body)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json()["error"]["type"] == "invalid_request_error"
