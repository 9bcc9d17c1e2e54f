"""The cache's report names the messages that the client sent, not those they became."""

import pytest

USER = {"role": "user", "content": "Hi"}
CALLS = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in "ab"],
}
RESULTS = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": i, "content": i} for i in "ab"],
}


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ({"messages": [USER, CALLS, RESULTS, CALLS, RESULTS]}, 2),
        ({"messages": [USER, CALLS, RESULTS], "system": "Be brief."}, 1),
        ({"messages": [USER, RESULTS, USER]}, 1),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_index_is_the_clients(served, fields, index, stream):
    """The scripted report says that message 2 of the engine's differs."""
    body = {"max_tokens": 9, "stream": stream, **fields}
    response = served.http.post("/v1/messages", json=body)
    assert f'"diverged":{{"message":{index},"change":"user message"}}' in response.text
    assert f"message={index}" in response.headers["x-mxserve-cache"]


def test_the_system_has_no_index(served, scripts):
    script = scripts.answer()
    report = script[0].cache
    script[0] = type(script[0])(11, 7, type(report)(7, 4, 8, 0, "system"))
    served.engine.script = script
    body = {"max_tokens": 9, "system": "Be brief.", "messages": [USER]}
    told = served.http.post("/v1/messages", json=body).json()["x_mxserve"]["cache"]
    assert told["diverged"] == {"message": None, "change": "system"}
