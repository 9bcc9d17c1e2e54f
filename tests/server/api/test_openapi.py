"""The OpenAPI document is true: what it says is taken is taken, and every answer has its shape."""

import json
import time

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import BaseModel
from schemathesis import GenerationMode

from server.api.openapi import document, operation
from server.app import MODULES
from server.engine.events import ContentDelta, Started

BUDGET_S = 5  # for each operation, however slow the machine


@pytest.fixture
def described(served):
    return served.http.get("/openapi.json").json()


def resolved(schema, doc):
    return {**schema, "components": doc["components"]}


def test_the_document_names_every_route(described):
    assert described["openapi"] == "3.1.0"
    paths = described["paths"]
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/models",
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/health",
    ):
        assert path in paths
    ids = [op["operationId"] for methods in paths.values() for op in methods.values()]
    assert len(ids) == len(set(ids))
    assert "security" not in described


def test_ranges_are_the_ones_checked(described):
    fields = described["components"]["schemas"]["ChatRequest"]["properties"]
    [temperature] = [s for s in fields["temperature"]["anyOf"] if s.get("type") == "number"]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert fields["messages"]["maxItems"] == 10_000
    assert "assistant" in fields["messages"]["items"]["properties"]["role"]["enum"]


def test_a_key_is_told_of(launch):
    served = launch(api_key="k")
    assert served.http.get("/openapi.json").status_code == 401
    doc = served.http.get("/openapi.json", headers={"x-api-key": "k"}).json()
    assert doc["security"] == [{"key": []}]


def test_the_document_is_made_once(served, monkeypatch):
    first = served.http.get("/openapi.json")
    assert first.headers["content-type"] == "application/json"
    monkeypatch.setattr("server.api.openapi.document", lambda *_, **__: pytest.fail("made again"))
    assert served.http.get("/openapi.json").content == first.content


def test_no_pages_of_documentation(served):
    for path in ("/docs", "/redoc"):
        assert served.http.get(path).status_code == 404


def test_two_schemas_of_one_name_are_a_mistake():
    from fastapi import APIRouter

    one = type("Same", (BaseModel,), {"__annotations__": {"a": int}})
    other = type("Same", (BaseModel,), {"__annotations__": {"b": int}})
    router = APIRouter()
    router.get("/a", openapi_extra=operation(answer=one))(lambda: None)
    router.get("/b", openapi_extra=operation(answer=other))(lambda: None)
    with pytest.raises(ValueError, match="Same"):
        document(router.routes, with_key=False)


PATHS = document([route for m in MODULES for route in m.router.routes], with_key=False)["paths"]
BOTH = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


def operations():
    """Every described operation, those with a body also with bodies that are wrong."""
    for path, methods in PATHS.items():
        for method in methods:
            if method != "head":
                modes = BOTH if method == "post" else BOTH[:1]
                yield from ((method.upper(), path, mode) for mode in modes)


def test_every_route_is_tried():
    tried = {(method, path) for method, path, _ in operations()}
    assert {("POST", "/v1/responses"), ("DELETE", "/v1/responses/{id}"), ("GET", "/")} <= tried
    assert len(tried) >= 15


@pytest.mark.parametrize(("method", "path", "mode"), list(operations()))
def test_schemathesis(served, scripts, described, method, path, mode):
    """Never a 5xx, always a documented shape, whatever comes."""
    schema = schemathesis.openapi.from_dict(described)
    end = time.monotonic() + BUDGET_S
    answers = described["paths"][path][method.lower()]["responses"]
    served.engine.script = lambda request: [
        Started(1, 0),
        *[event for i in range(request.n) for event in (ContentDelta(i, "x"), scripts.finished(i))],
    ]
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=12,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(case=cases)
    def check(case):
        if time.monotonic() > end:
            return
        if {".", ".."}.intersection((case.path_parameters or {}).values()):
            return  # to a client these are no names but the folder itself and the one above
        url = served.url + case.formatted_path
        content = json.dumps(case.body, default=str).encode() if method == "POST" else None
        response = served.http.request(method, url, content=content)
        assert response.status_code < 500, response.text
        kind = response.headers["content-type"].partition(";")[0]
        content = answers.get(str(response.status_code), answers["default"])["content"]
        assert kind in content
        if kind == "application/json":
            shape = content[kind]["schema"]
            jsonschema.validate(response.json(), resolved(shape, described))
        elif kind == "text/event-stream":
            frames = [line for line in response.text.split("\n") if line.startswith("data: {")]
            assert frames
            assert not any("error" in json.loads(frame[6:]) for frame in frames)

    check()
