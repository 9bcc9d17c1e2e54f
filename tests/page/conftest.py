"""A headless Chromium that drives the page of a real server with the demo model."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    expect,
    sync_playwright,
)

from tests.server_with_faults import ServerWithFaults

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
expect.set_options(timeout=20_000)  # CI's machines are small and shared
FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file's tests; skips where there is none. Not for the whole session:
    Playwright keeps an event loop running in this thread, and others' asyncio.run() would fail."""
    found = os.environ.get("MXSERVE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


class PageServer(ServerWithFaults):
    """One that a browser looks at."""

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture(scope="session")
def start_page_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., PageServer]]:
    """Starts servers with given flags; all are stopped at the end."""
    started: list[PageServer] = []

    def start(*flags: str) -> PageServer:
        started.append(PageServer.start(tmp_path_factory.mktemp("page"), *flags))
        return started[-1]

    yield start
    for page_server in started:
        page_server.server.stop()


@pytest.fixture(scope="module")
def page_server(browser: Browser, start_page_server: Callable[..., PageServer]) -> PageServer:
    """One server for a file's tests that do not end it. (Without a browser none is started.)"""
    return start_page_server()


@dataclass
class Chat:
    """The page as a person uses it. Problems that the browser's console tells fail the test,
    unless `expects` is a part of their text."""

    page: Page
    server: PageServer
    problems: list[str] = field(default_factory=list)
    expects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(30_000)
        self.page.on("pageerror", self._problem)
        self.page.on("console", self._said)

    def _problem(self, error: Error) -> None:
        self.problems.append(str(error))

    def _said(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self.problems.append(line.text)

    def open(self, path: str = "/") -> Chat:
        self.page.goto(self.server.url + path)
        # The greeting has the model's name once the page knows what the server takes.
        self.until("document.querySelectorAll('#effort option').length > 1")
        return self

    def until(self, condition: str, seconds: float = 30) -> None:
        """Waits for a JavaScript expression to be true. (The page's policy leaves Playwright's own
        way of waiting no eval.)"""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"it did not come true: {condition}"
            self.page.wait_for_timeout(30)

    def named(self, role: Any, name: str, **more: Any) -> Locator:
        return self.page.get_by_role(role, name=name, exact=True, **more)

    def effort(self, value: str) -> None:
        self.page.get_by_label("Effort").select_option(value)

    def send(self, text: str) -> None:
        """Sends a message; does not wait for its answer."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.named("button", "Send").click()

    def ask(self, text: str) -> str:
        """Sends a message and waits for its whole answer."""
        before = self.page.locator(".message").count()
        self.send(text)
        self.wait_for_messages(before + 2)
        return self.wait_for_answer()

    def wait_for_messages(self, count: int) -> None:
        self.until(f"document.querySelectorAll('.message').length === {count}")

    def wait_for_answer(self) -> str:
        """Waits until the last answer is whole; returns its text."""
        last = self.page.locator(".from-model").last
        last.and_(self.page.locator("[data-state=done]")).wait_for()
        return last.locator(".answer").inner_text()

    @property
    def texts(self) -> list[str]:
        """What the messages say, from the first to the last."""
        return self.page.locator(".bubble, .answer").all_inner_texts()

    def answer_with(self, *chunks: dict[str, Any], done: bool = True, status: int = 200) -> None:
        """Has the next answers come from here and not from the server."""
        frames = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        body = "".join(frames) + ("data: [DONE]\n\n" if done else "")
        headers = {"content-type": "text/event-stream"}
        self.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(status=status, headers=headers, body=body),
        )

    def answer_with_text(self, text: str) -> None:
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        delta = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        self.answer_with(delta, end, {"choices": [], "usage": usage})


@pytest.fixture
def open_chat(browser: Browser) -> Iterator[Callable[..., Chat]]:
    """Opens pages of given servers, each in a browser of its own as far as it remembers."""
    opened: list[Chat] = []

    def start(server: PageServer, **context: Any) -> Chat:
        page = browser.new_context(**context).new_page()
        opened.append(Chat(page, server))
        return opened[-1]

    yield start
    for chat in opened:
        chat.page.context.close()
    for chat in opened:
        left = [p for p in chat.problems if not any(part in p for part in chat.expects)]
        assert not left, "the console has problems"


@pytest.fixture
def chat(open_chat: Callable[..., Chat], page_server: PageServer) -> Chat:
    """The page, opened, answering without thinking."""
    chat = open_chat(page_server).open()
    chat.effort("none")
    return chat
