"""The page for everybody: narrow screens, dark ones, keyboards, screen readers; the status view."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.page.conftest import FRANCE, Chat, PageServer
from tests.page.test_text import MARKDOWN

WIDE = (
    "x" * 400 + "\n\n```sh\n" + "y" * 400 + "\n```\n\n|" + "long cell |" * 12 + "\n|" + "--|" * 12
)

AUDIT = (Path(__file__).parent / "audit.js").read_text()
FAINT = f"(() => {{ {AUDIT}; return faint() }})()"
UNNAMED = f"(() => {{ {AUDIT}; return unnamed() }})()"


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


def overflow(chat: Chat) -> int:
    """By how many pixels the page is wider than its window."""
    return chat.page.evaluate(
        "() => Math.max(...['html', 'body', '#scroller', '#status']"
        ".map((part) => document.querySelector(part).scrollWidth)) - window.innerWidth"
    )


def test_360_pixels(open_chat: Callable[..., Chat], page_server: PageServer):
    chat = open_chat(page_server, viewport={"width": 360, "height": 640}, has_touch=True).open()
    chat.answer_with_text(MARKDOWN + "\n\n" + WIDE)
    chat.ask("y" * 300)
    assert overflow(chat) <= 0
    chat.page.locator(".figures summary").click()
    assert overflow(chat) <= 0
    menu, sidebar = chat.named("button", "Conversations"), chat.page.locator("#sidebar")
    expect(sidebar).to_be_hidden()
    menu.click()
    expect(sidebar).to_be_visible()
    expect(chat.named("button", "Close the list")).to_be_focused()
    assert overflow(chat) <= 0
    chat.page.keyboard.press("Escape")
    expect(sidebar).to_be_hidden()
    expect(menu).to_be_focused()
    menu.click()
    sidebar.get_by_role("link", name=re.compile("slots in use|Ready|mxserve-demo")).click()
    expect(chat.page.locator("#cards")).to_be_visible()
    expect(sidebar).to_be_hidden()
    assert overflow(chat) <= 0
    chat.page.go_back()
    chat.named("button", "Settings").click()
    box = chat.page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


def paper(chat: Chat) -> int:
    """How light the page's ground is, 0 to 255."""
    color = chat.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return max(map(int, re.findall(r"\d+", color)[:3]))


def test_dark_and_light(open_chat: Callable[..., Chat], page_server: PageServer):
    chat = open_chat(page_server, color_scheme="dark").open()
    assert paper(chat) < 60
    chat.page.emulate_media(color_scheme="light")
    assert paper(chat) > 220
    chat.named("button", "Theme: as the system").click()
    chat.named("button", "Theme: light").click()
    expect(chat.named("button", "Theme: dark")).to_be_visible()
    assert paper(chat) < 60
    chat.page.reload()
    assert paper(chat) < 60
    chat.named("button", "Theme: dark").click()
    assert paper(chat) > 220


def test_text_can_be_read(open_chat: Callable[..., Chat], page_server: PageServer, scheme: Any):
    chat = open_chat(page_server, color_scheme=scheme).open()
    assert chat.page.evaluate(FAINT) == []
    chat.answer_with_text(MARKDOWN)
    chat.ask("Show me")
    chat.page.locator(".figures summary").click()
    assert chat.page.evaluate(FAINT) == []
    chat.page.unroute("**/v1/chat/completions")
    chat.answer_with({"error": {"message": "It failed.", "code": "x"}})
    chat.send("Fail")
    expect(chat.page.locator(".note.failed")).to_be_visible()
    assert chat.page.evaluate(FAINT) == []
    for button in ("Settings", "Rename", "Delete"):
        chat.named("button", button).click()
        expect(chat.page.get_by_role("dialog")).to_be_visible()
        assert chat.page.evaluate(FAINT) == []
        chat.page.keyboard.press("Escape")
    chat.page.goto(f"{page_server.url}/#/status")
    expect(chat.page.locator(".value").first).to_be_visible()
    assert chat.page.evaluate(FAINT) == []


def test_everything_has_a_name(chat: Chat):
    assert chat.page.evaluate(UNNAMED) == []
    chat.answer_with_text(MARKDOWN)
    chat.ask("Show me")
    chat.named("button", "Regenerate").click()
    expect(chat.page.locator(".versions")).to_be_visible()
    assert chat.page.evaluate(UNNAMED) == []
    chat.page.goto(f"{chat.server.url}/#/status")
    expect(chat.page.locator("#facts dt").first).to_be_visible()
    assert chat.page.evaluate(UNNAMED) == []


def test_keyboard_alone(open_chat: Callable[..., Chat], page_server: PageServer):
    chat = open_chat(page_server).open()
    keys, box = chat.page.keyboard, chat.page.get_by_label("Message", exact=True)
    keys.press("Tab")
    for _ in range(40):  # around the page: the skip button is its first stop
        if chat.page.evaluate("document.activeElement.id") == "skip":
            break
        keys.press("Tab")
    expect(chat.named("button", "Skip to the message box")).to_be_in_viewport()
    keys.press("Enter")
    expect(box).to_be_focused()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    expect(box).to_have_value("one\ntwo")
    box.fill("")
    keys.press("Enter")
    expect(chat.page.locator(".message")).to_have_count(0)  # nothing is not sent
    keys.press("Tab")
    expect(chat.page.get_by_label("Effort")).to_be_focused()
    keys.type("No")
    expect(chat.page.get_by_label("Effort")).to_have_value("none")
    keys.press("Shift+Tab")
    keys.type(FRANCE)
    keys.press("Enter")
    assert "Paris" in chat.wait_for_answer()
    for _ in range(30):
        keys.press("Shift+Tab")
        focused = chat.page.evaluate("document.activeElement.getAttribute('aria-label')")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert chat.page.evaluate(outline) != "none", f"{focused} does not show its focus"
        if focused == "Regenerate":
            break
    keys.press("Enter")
    expect(chat.page.locator(".versions")).to_contain_text("2/2")
    assert "Paris" in chat.wait_for_answer()
    expect(box).to_be_focused()


def test_the_focus_stays_where_it_is_when_an_answer_ends(chat: Chat):
    chat.ask(FRANCE)
    chat.server.arm("hold")
    try:
        chat.send("And Italy?")
        expect(chat.page.locator(".waiting").last).to_be_visible()
        chat.named("button", "Copy answer").first.focus()
    finally:
        chat.server.disarm("hold")
    assert "Rome" in chat.wait_for_answer()
    expect(chat.named("button", "Copy answer").first).to_be_focused()


def test_dialogs_give_the_focus_back(chat: Chat):
    button = chat.named("button", "Settings")
    button.focus()
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_label("System prompt")).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(button).to_be_focused()


def test_answers_are_announced_politely(chat: Chat):
    region = chat.page.locator("#announcer")
    expect(region).to_have_attribute("aria-live", "polite")
    expect(chat.page.locator("#thread")).not_to_have_attribute("aria-live", re.compile("."))
    chat.answer_with_text("# Title\n\nFirst.\n\nSecond.")
    chat.ask("Show me")
    expect(region.locator("p")).to_have_text(
        ["Title", "First.", "Second.", "The answer is complete."]
    )


def test_motion_can_be_reduced(open_chat: Callable[..., Chat], page_server: PageServer):
    chat = open_chat(page_server, reduced_motion="reduce").open()
    page_server.arm("hold")
    try:
        chat.send(FRANCE)
        expect(chat.page.locator(".pulse")).to_be_visible()
        expect(chat.page.locator(".pulse")).to_have_css("animation-name", "none")
    finally:
        page_server.disarm("hold")
    chat.wait_for_answer()


def test_it_follows_a_growing_answer_unless_one_scrolls_away(
    open_chat: Callable[..., Chat], page_server: PageServer
):
    chat = open_chat(page_server, viewport={"width": 800, "height": 420}).open()
    chat.answer_with_text("word\n\n" * 60)
    chat.ask("Show me")
    s = "document.querySelector('#scroller')"
    at_end = f"{s}.scrollHeight - {s}.scrollTop - {s}.clientHeight < 5"
    chat.until(at_end)
    expect(chat.named("button", "To the end")).to_be_hidden()
    chat.page.locator("#scroller").hover()
    chat.page.mouse.wheel(0, -900)
    chat.named("button", "To the end").click()
    chat.until(at_end)


def test_status(chat: Chat):
    chat.page.locator("#status-link").click()
    expect(chat.page.locator("#status-state")).to_have_text("Ready")
    expect(chat.page.get_by_role("heading", level=1)).to_have_text("Status")
    page_server = chat.server
    cards = chat.page.locator(".card")
    expect(cards.locator("h2")).to_contain_text(["Tokens a second", "Answers", "Memory", "Prompt"])
    expect(cards.nth(1).locator(".value")).to_have_text("0 of 16")
    page_server.arm("slow", 0.05)
    other = chat.page.context.new_page()
    try:
        other.goto(page_server.url)
        other.get_by_label("Message", exact=True).fill("Count from 1 to 20.")
        other.keyboard.press("Enter")
        expect(cards.nth(1).locator(".value")).to_have_text("1 of 16")
        speed = cards.nth(0).get_by_role("img")
        expect(speed).to_have_attribute("aria-label", re.compile(r"now \d.*at most [1-9]"))
        other.keyboard.press("Escape")
        expect(cards.nth(1).locator(".value")).to_have_text("0 of 16")
    finally:
        page_server.disarm("slow")
    for card in cards.all():
        expect(card.locator("path.line").first).to_be_attached()
    facts = chat.page.locator("#facts")
    expect(facts).to_contain_text("mxserve-demo")
    expect(facts).to_contain_text("131,072 tokens")
    expect(facts).to_contain_text("Generated since the start")


def test_slots_are_asked_for_again_soon_while_some_are_in_use(chat: Chat):
    state = chat.page.locator("#server-state")
    expect(state).to_have_text("0 of 16 slots in use")
    busy = {**httpx.get(f"{chat.server.url}/health").json(), "active": 1}
    chat.page.clock.install()
    chat.page.route("**/health", lambda route: route.fulfill(json=busy), times=1)
    chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(state).to_have_text("1 of 16 slots in use")
    chat.page.clock.run_for(2500)
    expect(state).to_have_text("0 of 16 slots in use")


def test_status_of_a_server_that_does_not_answer(chat: Chat):
    chat.expects = ["ERR_FAILED"]
    chat.page.goto(f"{chat.server.url}/#/status")
    expect(chat.page.locator("#status-state")).to_have_text("Ready")
    chat.page.route("**/health", lambda route: route.abort())
    expect(chat.page.locator("#status-state")).to_have_text("The server cannot be reached.")
    chat.page.unroute("**/health")
    expect(chat.page.locator("#status-state")).to_have_text("Ready")
