"""A conversation on the page: asked, answered, stopped, kept, answered again, edited."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from tests.page.conftest import FRANCE, Chat


def test_a_conversation_with_its_figures(chat: Chat):
    assert "Paris" in chat.ask(FRANCE)
    assert "Rome" in chat.ask("And Italy?")
    figures = chat.page.locator(".from-model").last.locator(".figures")
    told = figures.locator("summary").inner_text()
    found = re.fullmatch(r"(\d+) tokens · ([\d.,]+) tok/s · (\d+) of (\d+) reused", told)
    assert found, told
    assert 0 < int(found[3]) < int(found[4])
    figures.locator("summary").click()
    details = figures.locator("dl").inner_text()
    assert f"{found[4]} tokens" in details
    assert "First token after" in details


def test_suggestions_of_the_demo(chat: Chat):
    chat.named("button", FRANCE).click()
    assert "Paris" in chat.wait_for_answer()
    expect(chat.page.locator("#welcome")).to_be_hidden()


def test_a_thought_is_folded_and_timed(chat: Chat):
    chat.effort("low")
    chat.ask("47 + 38?")
    thought = chat.page.locator(".thought")
    expect(thought).to_have_js_property("open", False)
    assert re.fullmatch(r"Thought for (under )?[\d.]+ m?s", thought.locator("summary").inner_text())
    text = thought.locator(".thought-text")
    expect(text).to_be_hidden()
    thought.locator("summary").click()
    expect(text).to_be_visible()
    assert text.inner_text().strip()
    chat.page.locator(".figures summary").click()
    assert "Of it thought" in chat.page.locator(".figures dl").inner_text()


def test_a_thought_counts_while_it_goes_on(chat: Chat):
    chat.effort("low")
    chat.server.arm("slow", 0.1)
    try:
        chat.send("Think carefully: 47 + 38?")
        expect(chat.page.locator(".thought summary")).to_contain_text("Thinking for")
        expect(chat.page.locator(".thought")).to_have_class(re.compile("active"))
    finally:
        chat.server.disarm("slow")
    chat.wait_for_answer()
    expect(chat.page.locator(".thought summary")).to_contain_text("Thought for")


def test_efforts_are_the_servers(chat: Chat):
    values = chat.page.locator("#effort option").evaluate_all("all => all.map(o => o.value)")
    assert values == ["", "none", "minimal", "low", "medium", "high", "xhigh", "max"]
    chat.effort("high")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask(FRANCE)
    assert json.loads(sent.value.post_data or "")["reasoning_effort"] == "high"


def stopped(chat: Chat) -> str:
    """Waits until the last answer is one that was stopped; returns its text."""
    last = chat.page.locator(".from-model[data-state=stopped]").last
    expect(last.locator(".note")).to_have_text("Stopped.")
    chat.until("fetch('/health').then((r) => r.json()).then(({active}) => active === 0)")
    return last.locator(".answer").inner_text()


def test_stop_by_button_and_by_key(chat: Chat):
    chat.server.arm("slow", 0.1)
    try:
        for number, stop in enumerate(
            (
                lambda: chat.named("button", "Stop").click(),
                lambda: chat.page.keyboard.press("Escape"),
            )
        ):
            chat.send("Count from 1 to 20.")
            growing = chat.page.locator(".answer").nth(number)
            expect(growing).to_contain_text("2")
            stop()
            assert "20" not in stopped(chat)
    finally:
        chat.server.disarm("slow")
    expect(chat.page.get_by_label("Message", exact=True)).to_be_focused()
    assert "Paris" in chat.ask(FRANCE), "it goes on after a stop"


def test_stop_before_the_first_token(chat: Chat):
    chat.server.arm("hold")
    try:
        chat.send(FRANCE)
        expect(chat.page.locator(".waiting")).to_be_visible()
        chat.page.keyboard.press("Escape")
        expect(chat.page.locator(".note")).to_have_text("Stopped.")
    finally:
        chat.server.disarm("hold")
    chat.named("button", "Regenerate").click()
    assert "Paris" in chat.wait_for_answer()


def test_a_reload_keeps_the_conversation(chat: Chat):
    chat.ask(FRANCE)
    before, address = chat.texts, chat.page.url
    assert re.search(r"#/c/[0-9a-f]{32}$", address)
    chat.page.reload()
    expect(chat.page.locator(".answer")).to_have_text(before[-1])
    assert chat.texts == before
    expect(chat.page.get_by_label("Effort")).to_have_value("none")
    assert "Rome" in chat.ask("And Italy?")
    chat.open("/")
    expect(chat.page.locator("#welcome")).to_be_visible()
    chat.page.get_by_role("link", name=FRANCE).click()
    assert chat.texts[:2] == before
    assert chat.page.url == address


def test_a_reload_in_the_middle_keeps_what_there_was(chat: Chat):
    chat.server.arm("slow", 0.1)
    try:
        chat.send("Count from 1 to 20.")
        expect(chat.page.locator(".answer")).to_contain_text("3")
        chat.page.reload()
        assert "3" in stopped(chat)
    finally:
        chat.server.disarm("slow")


def test_another_conversation_goes_on_behind(chat: Chat):
    chat.server.arm("slow", 0.03)
    try:
        chat.send("Count from 1 to 20.")
        expect(chat.page.locator(".answer")).to_contain_text("2")
        chat.named("button", "New conversation").click()
        expect(chat.page.locator(".message")).to_have_count(0)
        expect(chat.page.locator("#conversations a.writing")).to_have_count(1)
    finally:
        chat.server.disarm("slow")
    assert "Paris" in chat.ask(FRANCE)
    chat.page.get_by_role("link", name="Count from 1 to 20.").click()
    assert "20" in chat.wait_for_answer()


def test_regenerate_makes_a_version(chat: Chat):
    first = chat.ask(FRANCE)
    chat.named("button", "Regenerate").click()
    versions = chat.page.locator(".from-model .versions")
    expect(versions).to_contain_text("2/2")
    assert "Paris" in chat.wait_for_answer()
    expect(chat.named("button", "Next version")).to_be_disabled()
    chat.named("button", "Previous version").click()
    expect(versions).to_contain_text("1/2")
    assert chat.texts[-1] == first
    expect(chat.named("button", "Next version")).to_be_focused()


def test_edit_branches(chat: Chat):
    chat.ask(FRANCE)
    chat.ask("And Italy?")
    old = chat.texts
    chat.page.locator(".from-user").first.hover()
    chat.named("button", "Edit message").first.click()
    box = chat.page.get_by_label("Edit the message")
    expect(box).to_have_value(FRANCE)
    box.fill("What is the capital of Spain?")
    box.press("Enter")
    chat.wait_for_messages(2)
    assert "Madrid" in chat.wait_for_answer()
    switch = chat.page.locator(".from-user .versions")
    expect(switch).to_contain_text("2/2")
    switch.get_by_label("Previous version").click()
    assert chat.texts == old
    chat.page.reload()
    expect(chat.page.locator(".message")).to_have_count(4)
    chat.page.locator(".from-user .versions").first.get_by_label("Next version").click()
    assert chat.texts[0] == "What is the capital of Spain?"


def test_an_edit_can_be_left(chat: Chat):
    chat.ask(FRANCE)
    before = chat.texts
    for leave in (
        lambda: chat.page.keyboard.press("Escape"),
        lambda: chat.named("button", "Cancel").click(),
    ):
        chat.page.locator(".from-user").hover()
        chat.named("button", "Edit message").click()
        chat.page.get_by_label("Edit the message").fill("something else")
        leave()
        assert chat.texts == before
        expect(chat.named("button", "Edit message")).to_be_focused()


def test_rename_export_delete(chat: Chat):
    chat.ask(FRANCE)
    chat.named("button", "Rename").click()
    chat.page.get_by_label("Name", exact=True).fill("Geography")
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_role("link", name="Geography")).to_be_visible()
    expect(chat.page.get_by_role("heading", level=1)).to_have_text("Geography")
    with chat.page.expect_download() as download:
        chat.named("button", "Export").click()
    assert download.value.suggested_filename == "Geography.json"
    kept = json.loads(download.value.path().read_text())
    assert {node["content"] for node in kept["nodes"].values() if "content" in node} == {
        FRANCE,
        chat.texts[-1],
    }
    chat.named("button", "Delete").click()
    chat.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(chat.page.get_by_role("link", name="Geography")).to_be_visible()
    chat.named("button", "Delete").click()
    chat.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(chat.page.get_by_role("link", name="Geography")).to_have_count(0)
    chat.page.reload()
    expect(chat.page.locator(".message")).to_have_count(0)


def test_settings_reach_the_request(chat: Chat):
    chat.named("button", "Settings").click()
    chat.page.get_by_label("System prompt").fill("My name is Anna.")
    chat.page.get_by_label("Temperature").fill("0")
    chat.page.get_by_label("Most tokens").fill("40")
    chat.named("button", "Save").click()
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        assert "Anna" in chat.ask("What is my name?")
    body = json.loads(sent.value.post_data or "")
    assert body["messages"][0] == {"role": "system", "content": "My name is Anna."}
    assert (body["temperature"], body["max_tokens"]) == (0, 40)
    assert "top_p" not in body
    chat.named("button", "New conversation").click()
    chat.named("button", "Settings").click()
    expect(chat.page.get_by_label("Temperature")).to_have_value("0")
    chat.page.get_by_label("Most tokens").fill("0")
    chat.named("button", "Save").click()
    expect(chat.page.get_by_role("dialog")).to_be_visible()  # it is not a legal value
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_role("dialog")).to_have_count(0)


def test_an_answer_cut_at_the_limit_says_so(chat: Chat):
    chat.named("button", "Settings").click()
    chat.page.get_by_label("Most tokens").fill("2")
    chat.named("button", "Save").click()
    chat.ask("Count from 1 to 20.")
    expect(chat.page.locator(".note")).to_have_text("Cut at the limit of tokens.")


def test_two_tabs_of_one_conversation(chat: Chat):
    chat.ask(FRANCE)
    other = Chat(chat.page.context.new_page(), chat.server)
    other.open("/" + chat.page.url.split("/", 3)[3])
    expect(other.page.locator(".message")).to_have_count(2)
    assert "Rome" in other.ask("And Italy?")
    expect(chat.page.locator(".message")).to_have_count(4)
    chat.named("button", "Delete").click()
    chat.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(other.page.locator(".message")).to_have_count(0)
    assert not other.problems
