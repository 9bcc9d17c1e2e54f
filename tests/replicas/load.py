"""Clients that talk through the proxy, each in sessions of its own, and what became of requests.

A request is lost when it failed before anything of its answer had come. One that was cut afterwards
is counted apart: nobody can take that back.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field

import httpx

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "Count from 1 to 20.": "20",
}
TURNS = 3
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """kind: ok, wrong, cut or lost. replicas: addresses that were tried, in order. cached: prompt
    tokens out of the cache, where the answer said so."""

    kind: str
    session: str
    turn: int
    stream: bool
    replicas: tuple[str, ...]
    cached: int = 0
    detail: str = ""


@dataclass
class Load:
    """`clients` threads against `url` until stop() is called."""

    url: str
    clients: int
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(self.clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, requests: int, by: str | None = None, seconds: float = 600.0) -> None:
        """Until so many more have ended, one of them answered by the replica `by`."""
        end = time.monotonic() + seconds
        start = len(self.outcomes)
        while len(self.outcomes) < start + requests or not self._has(by, start):
            assert time.monotonic() < end, "the load does not go on"
            time.sleep(0.02)

    def _has(self, by: str | None, start: int) -> bool:
        return by is None or any(o.replicas[-1:] == (by,) for o in self.outcomes[start:])

    def stop(self, seconds: float = TIMEOUT_S) -> None:
        """Lets every request end."""
        self._stopping.set()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.1, end - time.monotonic()))
            assert not thread.is_alive(), "a request hangs"

    def _client(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False) as client:
            conversation = 0
            while not self._stopping.is_set():
                conversation += 1
                session = f"{number}-{conversation}"
                messages: list[dict[str, str]] = []
                for turn in range(TURNS):
                    question, word = list(QUESTIONS.items())[(number + turn) % len(QUESTIONS)]
                    messages.append({"role": "user", "content": question})
                    stream = (number + turn) % 2 == 0
                    outcome, said = _ask(client, session, turn, messages, word, stream=stream)
                    self.outcomes.append(outcome)
                    if outcome.kind != "ok" or self._stopping.is_set():
                        break
                    messages.append({"role": "assistant", "content": said})


def _ask(
    client: httpx.Client,
    session: str,
    turn: int,
    messages: list[dict[str, str]],
    word: str,
    *,
    stream: bool,
) -> tuple[Outcome, str]:
    body = {
        "messages": messages,
        "temperature": 0,
        "reasoning_effort": "none",
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }
    replicas: tuple[str, ...] = ()
    begun = False
    text, cached, done = "", 0, False

    def outcome(kind: str, detail: str = "") -> Outcome:
        return Outcome(kind, session, turn, stream, replicas, cached, detail)

    try:
        headers = {"x-session-id": session}
        with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
            replicas = tuple(reply.headers.get("x-mxserve-replica", "").split(", "))
            if reply.status_code != 200:
                detail = reply.read().decode(errors="replace")[:200]
                return outcome("lost", f"{reply.status_code}: {detail}"), ""
            begun = True
            if stream:
                for line in reply.iter_lines():
                    if line == "data: [DONE]":
                        done = True
                    elif line.startswith("data: "):
                        chunk = json.loads(line.removeprefix("data: "))
                        for choice in chunk.get("choices", []):
                            text += choice["delta"].get("content") or ""
                        cached = max(cached, _cached(chunk))
            else:
                whole = json.loads(reply.read())
                text, cached, done = whole["choices"][0]["message"]["content"], _cached(whole), True
    except (httpx.HTTPError, ValueError) as error:
        # The whole answer in one piece has not begun until it is there.
        return outcome("cut" if begun and stream else "lost", repr(error)), ""
    if not done:
        return outcome("cut", "no [DONE]"), ""
    return outcome("ok" if word in text else "wrong", text[:100]), text


def _cached(answer: dict) -> int:
    usage = answer.get("usage") or {}
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
