"""What can be asked of a response later, while it is written, and by the next one."""

import json
from contextlib import contextmanager

import pytest
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter

from server.engine.errors import StepFailed
from server.engine.events import ContentDelta, Failed, Started
from tests.server.api.response_events import checked, parsed

PATH = "/v1/responses"
ITEM = TypeAdapter(ResponseItem)
HALF = [Started(11, 7), ContentDelta(0, "Par")]


@pytest.fixture
def post(served):
    def send(**fields):
        response = served.http.post(PATH, json={"input": "Hi", **fields})
        assert response.status_code == 200, response.text
        return response.json()

    return send


@pytest.fixture
def get(served):
    def send(path, status=200, **fields):
        response = served.http.get(f"{PATH}/{path}", **fields)
        assert response.status_code == status, response.text
        return response.json()

    return send


def error(response, status, code):
    assert response.status_code == status, response.text
    told = response.json()["error"]
    assert (told["code"], told["type"]) == (code, "invalid_request_error")
    return told


@contextmanager
def being_written(served):
    """A stream that stays silent after its first text: its id, and all its events to the end."""
    served.engine.script = [*HALF, 60]
    with served.http.stream("POST", PATH, json={"input": "Hi", "stream": True}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        coming = (json.loads(line.removeprefix("data: ")) for line in lines)
        told = [next(coming)]
        while told[-1]["type"] != "response.output_text.delta":
            told.append(next(coming))
        yield told[0]["response"]["id"], lambda: [*told, *coming]


def test_a_response_is_kept(post, get):
    response = post(metadata={"a": "b"})
    assert response["store"]
    assert get(response["id"]) == response
    assert get(f"{response['id']}/", params={"include[]": "reasoning.encrypted_content"})
    assert len(get(f"{response['id']}/input_items")["data"]) == 1


def test_a_stream_is_kept_by_the_time_it_ends(served, get):
    response = checked(parsed(served.http.post(PATH, json={"input": "Hi", "stream": True}).text))
    assert get(response["id"]) == response


def test_store_false_keeps_nothing(post, served):
    response = post(store=False)
    assert not response["store"]
    error(served.http.get(f"{PATH}/{response['id']}"), 404, "not_found")


def test_a_server_that_keeps_nothing(launch):
    served = launch(response_store="off")
    response = served.http.post(PATH, json={"input": "Hi"}).json()
    assert not response["store"]
    error(served.http.get(f"{PATH}/{response['id']}"), 404, "not_found")
    again = served.http.post(PATH, json={"input": "Hi", "previous_response_id": response["id"]})
    told = error(again, 400, "previous_response_not_found")
    assert "stores none" in told["message"]


def test_what_was_deleted_is_gone(post, served):
    id = post()["id"]
    gone = served.http.delete(f"{PATH}/{id}")
    assert gone.json() == {"id": id, "object": "response", "deleted": True}
    for response in (
        served.http.get(f"{PATH}/{id}"),
        served.http.delete(f"{PATH}/{id}"),
        served.http.get(f"{PATH}/{id}/input_items"),
        served.http.post(f"{PATH}/{id}/cancel"),
    ):
        assert id in error(response, 404, "not_found")["message"]


def test_one_that_has_ended_is_not_cancelled(post, served):
    response = served.http.post(f"{PATH}/{post()['id']}/cancel")
    assert "is completed" in error(response, 400, "invalid_value")["message"]


def test_a_kept_response_is_not_streamed(post, served):
    response = served.http.get(f"{PATH}/{post()['id']}", params={"stream": "true"})
    error(response, 400, "unsupported_parameter")


def test_there_is_no_compaction(served):
    error(served.http.post(f"{PATH}/compact", json={"input": "Hi"}), 404, "not_found")


def test_a_response_while_it_is_written(served, get):
    with being_written(served) as (id, _):
        response = get(id)
        Response.model_validate_json(json.dumps(response), strict=True)
        assert (response["status"], response["usage"]) == ("in_progress", None)
        [item] = response["output"]
        assert (item["status"], item["content"][0]["text"]) == ("in_progress", "Par")
        assert get(f"{id}/input_items")["data"][0]["content"][0]["text"] == "Hi"
        get(id, 404, headers={"authorization": "Bearer other"})
    assert served.engine.streams[0].cancelled.wait(5)
    get(id, 404)


def test_cancel_ends_it_where_it_is(served, get):
    with being_written(served) as (id, rest):
        other = {"authorization": "Bearer other"}
        error(served.http.post(f"{PATH}/{id}/cancel", headers=other), 404, "not_found")
        cancelled = served.http.post(f"{PATH}/{id}/cancel").json()
        assert served.engine.streams[0].cancelled.is_set()
        response = checked(rest())
    assert response == cancelled == get(id)
    assert response["status"] == "cancelled"
    [item] = response["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Par")
    assert served.http.post(f"{PATH}/{id}/cancel").json() == response


def test_delete_ends_it_and_keeps_nothing(served, get):
    with being_written(served) as (id, rest):
        assert served.http.delete(f"{PATH}/{id}").json()["deleted"]
        assert checked(rest())["status"] == "cancelled"
    get(id, 404)


def test_a_failed_stream_is_kept_as_failed(served, get):
    served.engine.script = [*HALF, Failed(StepFailed("broken"))]
    response = checked(parsed(served.http.post(PATH, json={"input": "Hi", "stream": True}).text))
    assert (response["status"], response["error"]["message"]) == ("failed", "broken")
    assert get(response["id"]) == response


def test_the_next_one_goes_on_from_a_kept_one(served, post):
    items = [
        {"role": "user", "content": "Capital of France?"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "Paris"},
    ]
    first = post(input=items, instructions="Be brief.")
    second = post(input="And Italy?", previous_response_id=first["id"], instructions="Be long.")
    assert second["previous_response_id"] == first["id"]
    messages = served.engine.requests[-1].messages
    told = [(message["role"], message["content"]) for message in messages]
    assert told == [
        ("system", "Be long."),
        ("user", "Capital of France?"),
        ("assistant", ""),
        ("tool", "Paris"),
        ("assistant", "Paris. 🗼"),
        ("user", "And Italy?"),
    ]
    assert messages[4]["reasoning_content"] == "France, so Paris."
    post(input="And Spain?", previous_response_id=second["id"])
    assert len(served.engine.requests[-1].messages) == 7
    served.http.delete(f"{PATH}/{first['id']}")
    post(input="And Peru?", previous_response_id=second["id"])
    assert len(served.engine.requests[-1].messages) == 7


def test_a_previous_response_needs_no_new_input(served, post):
    post(input=None, previous_response_id=post()["id"])
    assert [m["role"] for m in served.engine.requests[-1].messages] == ["user", "assistant"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_previous_response(served, post, stream):
    id = post()["id"]
    for previous, headers in (("resp_x", {}), (id, {"authorization": "Bearer other"})):
        body = {"input": "Hi", "previous_response_id": previous, "stream": stream}
        told = error(served.http.post(PATH, json=body, headers=headers), 400, _UNKNOWN)
        assert told["param"] == "previous_response_id"
        assert told["message"].startswith(f"Previous response with id {previous!r} not found")
    assert len(served.engine.requests) == 1


_UNKNOWN = "previous_response_not_found"


def test_references_to_items_of_kept_responses(served, post):
    """As the AI SDK sends them: thoughts by reference, calls and texts in full."""
    thought, message = post()["output"]
    kinds = [{"type": "item_reference"}, {}, {"type": None}]
    for kind in kinds:
        items = [{"role": "user", "content": "Hi"}, {**kind, "id": thought["id"]}, message]
        post(input=[*items, {"role": "user", "content": "And?"}], store=False)
        turn = served.engine.requests[-1].messages[1]
        assert turn["reasoning_content"] == "France, so Paris."
        assert turn["content"] == "Paris. 🗼"


def test_references_that_lead_nowhere(served, post, caplog):
    thought, message = post(store=False)["output"]
    items = [{"role": "user", "content": "Hi"}, {"type": "item_reference", "id": thought["id"]}]
    assert post(input=items)
    assert len(served.engine.requests[-1].messages) == 1
    assert "left out a reference" in caplog.text
    for id in (message["id"], "msg_1", 7):
        body = {"input": [*items, {"type": "item_reference", "id": id}]}
        told = error(served.http.post(PATH, json=body), 404, "not_found")
        assert told["param"] == "input[2].id"


def test_input_items_are_listed_in_pages(post, get):
    items = [{"role": "user", "content": str(number)} for number in range(25)]
    id = post(input=items)["id"]
    seen, after, pages = [], None, 0
    while True:
        params = {"limit": 10, "order": "asc", **({"after": after} if after else {})}
        page = get(f"{id}/input_items", params=params)
        seen += [item["content"][0]["text"] for item in page["data"]]
        assert page["first_id"] == page["data"][0]["id"]
        after, pages = page["last_id"], pages + 1
        if not page["has_more"]:
            break
    assert (seen, pages) == ([str(number) for number in range(25)], 3)
    page = get(f"{id}/input_items")
    assert [item["content"][0]["text"] for item in page["data"]] == seen[:4:-1]


def test_items_of_one_id_do_not_hold_a_pager_up(post, get):
    items = [{"role": "user", "content": text, "id": "msg_1"} for text in "ab"]
    id = post(input=[*items, {"role": "user", "content": "c"}])["id"]
    params = {"limit": 1, "order": "asc", "after": "msg_1"}
    assert get(f"{id}/input_items", params=params)["data"][0]["content"][0]["text"] == "c"


def test_items_are_complete(post, get):
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}], "status": None},
        {"type": "reasoning", "summary": [], "content": None},
        {"role": "assistant", "content": "Hello"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "x"},
    ]
    first = post(input=items)
    second = post(input="And?", previous_response_id=first["id"])
    data = get(f"{second['id']}/input_items", params={"order": "asc"})["data"]
    for item in data:
        ITEM.validate_json(json.dumps(item), strict=True)
    kinds = ["message", "message", "reasoning", "message", "function_call", "function_call_output"]
    assert [item["type"] for item in data] == [*kinds, "reasoning", "message", "message"]
    assert data[6:8] == first["output"]
    assert len({item["id"] for item in data}) == len(data)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "1" * 5000}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_absent"}, "after"),
    ],
)
def test_pages_that_cannot_be(post, served, params, param):
    response = served.http.get(f"{PATH}/{post()['id']}/input_items", params=params)
    assert error(response, 400, "invalid_value")["param"] == param
