"""Tools of /v1/responses: which are offered, under which names, and which may be called."""

import pytest

from server.engine.request import ToolChoice

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Weather", "parameters": SCHEMA}
TIME = {"type": "function", "name": "time", "parameters": SCHEMA, "strict": True}
GEO = {"type": "namespace", "name": "geo", "description": "Geography", "tools": [WEATHER]}


@pytest.fixture
def post(served):
    def send(**fields):
        return served.http.post("/v1/responses", json={"input": "Hi", **fields})

    return send


@pytest.fixture
def asked(served, post):
    """The engine request that fields become, and the response."""

    def send(**fields):
        response = post(**fields)
        assert response.status_code == 200, response.text
        return served.engine.requests[-1], response.json()

    return send


def test_tools_are_offered_and_told_back(asked, caplog):
    nested = {"type": "function", "function": {"name": "nested", "parameters": SCHEMA}}
    search = {"type": "web_search", "external_web_access": False}
    tools = [WEATHER, nested, TIME, search, {**GEO, "name": "empty", "tools": []}]
    request, response = asked(tools=tools)
    offered = [tool["function"]["name"] for tool in request.tools]
    assert offered == ["weather", "nested", "time"]
    assert list(request.tools[0]["function"]) == ["name", "description", "parameters"]
    assert "web_search" in caplog.text
    assert [tool["name"] for tool in response["tools"]] == offered
    assert response["tools"][0] == {**WEATHER, "strict": None}
    assert response["tools"][2] == {**TIME, "description": None}


def test_namespaces_are_flattened(asked):
    request, response = asked(tools=[GEO, TIME])
    assert [tool["function"]["name"] for tool in request.tools] == ["geo.weather", "time"]
    inner = [{**WEATHER, "strict": None}]
    assert response["tools"][0] == {**GEO, "tools": inner}


NAMED = {"type": "function", "name": "time"}


@pytest.mark.parametrize(
    ("choice", "told", "echoed"),
    [
        (None, ToolChoice(), "auto"),
        ("auto", ToolChoice(), "auto"),
        ("none", ToolChoice("none"), "none"),
        ("required", ToolChoice("required"), "required"),
        (NAMED, ToolChoice("required", ("time",)), NAMED),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [NAMED, {"type": "web_search"}]},
            ToolChoice("auto", ("time",)),
            {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [NAMED]},
            ToolChoice("required", ("time",)),
            NAMED,
        ),
        (
            {"type": "function", "name": "weather", "namespace": "geo"},
            ToolChoice("required", ("geo.weather",)),
            {"type": "function", "name": "geo.weather"},
        ),
        (
            {"type": "function", "name": "weather"},
            ToolChoice("required", ("geo.weather",)),
            {"type": "function", "name": "geo.weather"},
        ),
    ],
)
def test_tool_choice(asked, choice, told, echoed):
    request, response = asked(tools=[GEO, TIME], tool_choice=choice)
    assert request.tool_choice == told
    assert response["tool_choice"] == echoed


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "absent"},
        {"type": "function", "name": "weather", "namespace": "absent"},
        {"type": "web_search"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]},
        {"type": "allowed_tools", "tools": 1},
        "sometimes",
        7,
    ],
)
def test_a_choice_that_cannot_be(post, choice):
    response = post(tools=[GEO, TIME], tool_choice=choice)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tool_choice")


def test_a_name_that_two_namespaces_have_needs_one(post):
    other = {**GEO, "name": "other"}
    choice = {"type": "function", "name": "weather"}
    assert post(tools=[GEO, other], tool_choice=choice).status_code == 400
    assert post(tools=[GEO, other], tool_choice={**choice, "namespace": "other"}).is_success
