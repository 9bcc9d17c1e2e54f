"""Responses that are kept: continued, over restarts too, asked for, deleted and cancelled."""

from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import wait_for
from tests.e2e.responses_client import (
    FRANCE,
    NO_THOUGHT,
    SEALED,
    ask,
    cached,
    connected,
    sent,
    texts,
    user,
)

ENDLESS: Any = {"structured_outputs": {"regex": "(one two ){900}"}}


@pytest.fixture(scope="module")
def client(live_server):
    with connected(live_server) as client:
        yield client


def known(client, id):
    try:
        return client.responses.retrieve(id).id == id
    except openai.NotFoundError:
        return False


def test_previous_responses_prefill_only_what_is_new(client):
    before, previous = 0, openai.omit
    places = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
    for place, capital in places.items():
        question = f"What is the capital of {place}?"
        instructions = "You are a guide to the capitals."
        response = ask(client, question, previous_response_id=previous, instructions=instructions)
        assert capital in response.output_text
        assert cached(response) >= before - 2
        before, previous = response.usage.total_tokens, response.id
    items = list(client.responses.input_items.list(previous, order="asc", limit=2))
    assert [item.type for item in items[:4]] == ["message", "reasoning", "message", "message"]
    assert [texts(item)[0] for item in items if getattr(item, "role", "") == "user"] == [
        f"What is the capital of {place}?" for place in places
    ]


def test_responses_outlive_a_restart(start_serving, tmp_path):
    """And so does the key of sealed reasoning."""
    flags = ("--response-store", str(tmp_path / "responses"))
    server = start_serving(*flags)
    with connected(server) as client:
        first = ask(client, include=SEALED)
        gone = ask(client)
        client.responses.delete(gone.id)
        with connected(server) as other:
            other.api_key = "another"
            with pytest.raises(openai.NotFoundError):
                other.responses.retrieve(first.id)
    assert server.stop() == 0
    server = start_serving(*flags)
    with connected(server) as client:
        assert client.responses.retrieve(first.id) == first
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone.id)
        second = ask(client, "And of Italy?", previous_response_id=first.id)
        assert "Rome" in second.output_text
        thought, message = sent(first)
        sealed = {**thought, "content": [], "summary": []}
        counts = [
            client.responses.input_tokens.count(
                model="demo", input=[user(FRANCE), *items, user("And of Italy?")]
            ).input_tokens
            for items in ([thought, message], [sealed, message], [message])
        ]
        assert counts[0] == counts[1] == second.usage.input_tokens > counts[2]
    server.stop()


def test_retrieve_delete_and_store_false(client):
    kept, other = ask(client), ask(client, store=False)
    assert client.responses.retrieve(kept.id) == kept
    client.responses.delete(kept.id)
    for id in (kept.id, other.id):
        with pytest.raises(openai.NotFoundError, match=id):
            client.responses.retrieve(id)
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, previous_response_id=id)
        assert refused.value.code == "previous_response_not_found"


def test_cancel(client):
    fields: Any = {"model": "demo", "reasoning": NO_THOUGHT, "extra_body": ENDLESS}
    with client.responses.create(input="Hi", stream=True, **fields) as stream:
        events = iter(stream)
        event: Any = next(events)
        id = event.response.id
        while event.type != "response.output_text.delta":
            event = next(events)
        assert client.responses.retrieve(id).status == "in_progress"
        assert client.responses.cancel(id).status == "cancelled"
        last = list(events)[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")
    kept = client.responses.retrieve(id)
    assert kept.status == "cancelled"
    assert 0 < len(kept.output_text) < 5000
    with pytest.raises(openai.BadRequestError, match="is completed"):
        client.responses.cancel(ask(client).id)


def test_a_stream_that_is_left_is_not_kept(client, live_server):
    fields: Any = {"model": "demo", "reasoning": NO_THOUGHT, "extra_body": ENDLESS}
    with client.responses.create(input="Hi", stream=True, **fields) as stream:
        id = next(iter(stream)).response.id
    wait_for(lambda: not known(client, id))
    wait_for(lambda: httpx.get(f"{live_server.url}/health").json()["active"] == 0)
