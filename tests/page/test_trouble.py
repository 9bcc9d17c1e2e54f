"""What the page does when the server refuses, breaks, waits or is gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from playwright.sync_api import Route, expect

from tests.page.conftest import FRANCE, Chat, PageServer

PART = {"choices": [{"index": 0, "delta": {"content": "Par"}, "finish_reason": None}]}


def test_a_server_that_ends(
    open_chat: Callable[..., Chat], start_page_server: Callable[..., PageServer]
):
    server = start_page_server("--drain-timeout", "0")
    chat = open_chat(server).open()
    chat.expects = ["ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE", "503"]
    chat.effort("none")
    server.arm("slow", 0.1)
    chat.send("Count from 1 to 20.")
    expect(chat.page.locator(".answer")).to_contain_text("2")
    server.server.process.kill()
    note = chat.page.locator(".note.failed")
    expect(note).to_contain_text("The connection broke off")
    expect(chat.page.get_by_role("alert")).to_contain_text("cannot be reached")
    assert "2" in chat.texts[-1], "what had come stays"
    chat.named("button", "Try again").click()
    expect(note).to_contain_text("The server cannot be reached.")
    server.server.process.wait()
    port = server.url.rsplit(":", 1)[1]
    again = start_page_server("--port", port)
    assert again.url == server.url
    expect(chat.page.get_by_role("alert")).to_be_hidden()
    chat.named("button", "Try again").click()
    assert "20" in chat.wait_for_answer()
    expect(chat.page.locator(".versions")).to_contain_text("2/2")


def test_a_key(open_chat: Callable[..., Chat], start_page_server: Callable[..., PageServer]):
    server = start_page_server("--api-key", "s3cret")
    chat = open_chat(server)
    chat.expects = ["401"]
    chat.page.goto(server.url)
    dialog = chat.page.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("asks for an API key")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_contain_text("refused the key")
    dialog.get_by_role("button", name="Cancel").click()
    chat.send(FRANCE)
    expect(chat.page.locator(".note.failed")).to_contain_text("A valid API key is needed")
    dialog.get_by_label("Key", exact=True).fill("s3cret")
    chat.page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(chat.page.locator("#effort option")).to_have_count(8)
    chat.named("button", "Try again").click()
    assert "Paris" in chat.wait_for_answer()
    expect(chat.page.locator(".versions")).to_have_count(0)  # the refusal left no version
    chat.page.reload()
    expect(chat.page.locator("#effort option")).to_have_count(8)  # the tab remembers
    kept = chat.page.evaluate("JSON.stringify({...localStorage})")
    assert "s3cret" not in kept, "the browser was not told to remember"
    assert "s3cret" not in chat.page.content()


def test_a_full_queue_says_when_to_come_back(chat: Chat):
    chat.expects = ["429"]
    error = {"error": {"message": "The queue is full.", "type": "x", "code": "queue_full"}}
    chat.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, headers={"retry-after": "7"}, json=error),
        times=1,
    )
    chat.send(FRANCE)
    note = chat.page.locator(".note.failed")
    expect(note).to_contain_text("The queue is full. Try again in 7 s or later.")
    chat.named("button", "Try again").click()
    assert "Paris" in chat.wait_for_answer()
    expect(chat.page.locator(".message")).to_have_count(2)


def test_an_error_in_the_middle_of_a_stream(chat: Chat):
    chat.answer_with(PART, {"error": {"message": "The server failed.", "code": "step_failed"}})
    chat.send(FRANCE)
    expect(chat.page.locator(".note.failed")).to_contain_text("The server failed.")
    assert chat.texts[-1] == "Par"


def test_a_stream_that_ends_too_early(chat: Chat):
    chat.answer_with(PART, done=False)
    chat.send(FRANCE)
    expect(chat.page.locator(".note.failed")).to_contain_text("The connection broke off")


def test_another_servers_error_page(chat: Chat):
    chat.expects = ["502"]
    chat.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<h1>Bad</h1>")
    )
    chat.send(FRANCE)
    expect(chat.page.locator(".note.failed")).to_contain_text("The server answered 502.")


def unavailable(body: str, route: Route) -> None:
    route.fulfill(status=503, body=body)


def test_a_server_that_is_not_ready(chat: Chat):
    chat.expects = ["503"]
    states = {"loading": "The model is loading", "draining": "is stopping", "dead": "hung in step"}

    for state, text in states.items():
        body = {"status": state, "reason": "hung in step" if state == "dead" else None}
        figures = {"active": 0, "slots": 1, "queued": 0, "model": None, "version": "0"}
        answer = json.dumps({**figures, **body})
        chat.page.route("**/health", partial(unavailable, answer))
        chat.page.reload()
        expect(chat.page.get_by_role("alert")).to_contain_text(text)
        chat.page.unroute("**/health")
    expect(chat.page.get_by_role("alert")).to_be_hidden()


def test_without_a_store_the_page_still_works(open_chat, page_server: PageServer):
    chat = open_chat(page_server)
    chat.page.add_init_script(
        "Object.defineProperty(window, 'indexedDB', {value: undefined});"
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }});"
    )
    chat.open()
    chat.effort("none")
    assert "Paris" in chat.ask(FRANCE)
    expect(chat.page.get_by_role("link", name=FRANCE)).to_be_visible()
