"""What is answered about a response has the shape that the OpenAPI document tells."""

import jsonschema
import pytest

PATH = "/v1/responses"
OF_ONE = f"{PATH}/{{id}}"


@pytest.fixture
def answered(served):
    """Sends a request to a described path; its answer, whose shape was checked."""
    document = served.http.get("/openapi.json").json()

    def send(method, path, id="", **body):
        answers = document["paths"][path][method.lower()]["responses"]
        response = served.http.request(method, path.replace("{id}", id), json=body or None)
        told = answers.get(str(response.status_code), answers["default"])
        schema = told["content"]["application/json"]["schema"]
        jsonschema.validate(response.json(), {**schema, "components": document["components"]})
        return response.json()

    return send


def test_every_answer_has_its_shape(answered, served, scripts):
    served.engine.script = [*scripts.tool_answer()[:-1], *scripts.answer()[2:]]
    include = ["reasoning.encrypted_content"]
    response = answered("POST", PATH, input="Hi", include=include, reasoning={"summary": "auto"})
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["function_call", "function_call", "reasoning", "message"]
    assert answered("GET", OF_ONE, response["id"]) == response
    assert answered("GET", f"{OF_ONE}/input_items", response["id"])["data"]
    assert answered("POST", f"{PATH}/input_tokens", input="Hi")["input_tokens"]
    assert "error" in answered("POST", f"{OF_ONE}/cancel", response["id"])
    assert answered("DELETE", OF_ONE, response["id"])["deleted"]
    for method, path in (
        ("GET", OF_ONE),
        ("DELETE", OF_ONE),
        ("POST", f"{OF_ONE}/cancel"),
        ("GET", f"{OF_ONE}/input_items"),
    ):
        assert answered(method, path, response["id"])["error"]["code"] == "not_found"
    assert "error" in answered("POST", PATH, input=5)
