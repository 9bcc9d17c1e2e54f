"""Replays a trace against one server and counts what it computed beside what it had to.

Knows chat completions without streaming, and the yardstick. Nothing of how servers are started and
of how results are shown. The history grows by the server's own answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import httpx

from server.bench.client import BenchError
from server.bench.conversation import Answer, Conversation, Message
from server.bench.ideal import PromptText, Reuse, SeenPrefixes
from server.bench.trace import Step, Trace

REQUEST_LIMIT_S = 900.0
MOST_FAILURES_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and the server's own account of it. cached_tokens: None when it says nothing.
    cache: the value of the x-mxserve-cache header, where there is one."""

    answer: Answer
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    cache: str | None = None


class Target(Protocol):
    """A server that is measured."""

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """Answers one chat completion. Raises BenchError."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a replay.

    prompt_tokens, cached_tokens, completion_tokens: the server's account. rendered, new, after_end:
    the replayer's own (`ideal.Reuse`). restarted: it is the first of its session after a restart.
    error: why it failed; then all numbers are 0.
    """

    session: int
    turn: int
    kind: str
    restarted: bool
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    completion_tokens: int = 0
    rendered: int = 0
    new: int = 0
    after_end: int = 0
    seconds: float = 0.0
    finish_reason: str = ""
    cache: str | None = None
    error: str | None = None

    @property
    def computed(self) -> int | None:
        """Prompt tokens the server computed; None when it does not say or failed."""
        if self.error is not None or self.cached_tokens is None:
            return None
        return self.prompt_tokens - self.cached_tokens

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


class ChatTarget:
    """A server at an address. Use as a context manager.

    cached: for a server whose usage hides its cache: says what the request just answered took from
    it.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        limit_s: float = REQUEST_LIMIT_S,
        cached: Callable[[], int | None] | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(limit_s, connect=5.0))
        self._model = model
        self._cached = cached

    def __enter__(self) -> ChatTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """Sends one request. Raises BenchError for anything but a whole answer with usage."""
        whole = {**body, "stream": False}
        if self._model is not None:
            whole["model"] = self._model
        try:
            reply = self._http.post("/v1/chat/completions", json=whole)
            if reply.status_code != 200:
                raise BenchError(f"HTTP {reply.status_code}: {reply.text[:300]}")
            found = read_reply(reply.json(), reply.headers.get("x-mxserve-cache"))
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise BenchError(f"{type(error).__name__}: {error}") from error
        if found.cached_tokens is None and self._cached is not None:
            return replace(found, cached_tokens=self._cached())
        return found


def read_reply(body: Mapping[str, Any], cache: str | None) -> Reply:
    """A chat completion's JSON. Raises LookupError or TypeError when it is none."""
    choice, usage = body["choices"][0], body["usage"]
    message = choice["message"]
    details = usage.get("prompt_tokens_details") or {}
    finish = str(choice.get("finish_reason"))
    answer = Answer(
        content=message.get("content") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        calls=message.get("tool_calls") or (),
        complete=finish != "length",
    )
    return Reply(
        answer,
        finish,
        int(usage["prompt_tokens"]),
        int(usage["completion_tokens"]),
        details.get("cached_tokens"),
        cache,
    )


class Yardstick:
    """The ideal for one server on one trace.

    A server may keep the thoughts that a client stripped, or that the template would drop, in its
    prompts: then every prompt extends the one before. Which of the two it does shows in its first
    prompt whose length tells them apart, and from then on its prompts are measured against that.
    """

    def __init__(self, trace: Trace, prompts: PromptText) -> None:
        self._trace = trace
        self._prompts = prompts
        self._seen = SeenPrefixes(prompts.ends)
        self.keeps_thoughts: bool | None = True if trace.echo and trace.preserve else None

    def before(self, messages: Sequence[Message], sent: Sequence[Message]) -> _Expected:
        """What the next request, whose history with thoughts is `messages` and without those that
        the client strips `sent`, may cost at the least. Raises BenchError."""
        kept = self._prompt(messages, keep=True)
        dropped = self._prompt(sent, keep=self._trace.preserve)
        return _Expected(kept, self._seen.reuse(kept), dropped, self._seen.reuse(dropped))

    def answered(
        self,
        messages: Sequence[Message],
        sent: Sequence[Message],
        expected: _Expected,
        reply: Reply,
    ) -> Reuse:
        """What the request that got `reply` had to cost; remembers it and the answer as seen."""
        if self.keeps_thoughts is None and len(expected.kept) != len(expected.dropped):
            kept_off = abs(reply.prompt_tokens - len(expected.kept))
            self.keeps_thoughts = kept_off < abs(reply.prompt_tokens - len(expected.dropped))
        keep = bool(self.keeps_thoughts)
        whole = self._prompts.after_answer(
            messages if keep else sent,
            self._trace.tools,
            reply.answer.message(),
            thinking=self._trace.thinking,
            keep=keep or self._trace.preserve,
            complete=reply.answer.complete,
        )
        self._seen.add(expected.kept if keep else expected.dropped)
        self._seen.add(whole, stops=[len(whole)])
        return expected.kept_reuse if keep else expected.dropped_reuse

    def _prompt(self, messages: Sequence[Message], *, keep: bool) -> list[int]:
        thinking = self._trace.thinking
        return self._prompts.prompt(messages, self._trace.tools, thinking=thinking, keep=keep)


@dataclass(frozen=True, slots=True)
class _Expected:
    """A request's tokens with all thoughts kept, and as the template has it, and their reuse."""

    kept: list[int]
    kept_reuse: Reuse
    dropped: list[int]
    dropped_reuse: Reuse


@dataclass(frozen=True, slots=True)
class Replay:
    """The requests of a trace in order, failed ones included. keeps_thoughts: whether the server's
    prompts held thoughts that the client or the template had dropped."""

    requests: Sequence[Request]
    keeps_thoughts: bool


def replay(
    trace: Trace,
    target: Target,
    prompts: PromptText,
    *,
    limit: int | None = None,
    pause_s: float | None = None,
    restart: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Sends every request of `trace`.

    limit: turns of each session; pause_s: in place of the trace's own; restart: called once, half
    way, between two requests. Raises BenchError when several requests in a row failed.
    """
    steps = trace.steps(limit)
    half = len(steps) // 2 if restart is not None else -1
    conversations = [Conversation(trace) for _ in range(trace.sessions)]
    yardstick = Yardstick(trace, prompts)
    fresh: set[int] = set()  # sessions that had no request since the restart
    requests: list[Request] = []
    failures = 0
    for number, step in enumerate(steps):
        if number:
            time.sleep(trace.pause_s if pause_s is None else pause_s)
        if number == half and restart is not None:
            restart()
            fresh = set(range(trace.sessions))
        one = _request(step, conversations[step.session], target, yardstick, step.session in fresh)
        fresh.discard(step.session)
        requests.append(one)
        failures = failures + 1 if one.error else 0
        if failures >= MOST_FAILURES_IN_A_ROW:
            raise BenchError(f"{failures} requests in a row failed; the last: {one.error}")
        if progress is not None:
            progress(number + 1, len(steps))
    keeps = bool(yardstick.keeps_thoughts) and not (trace.echo and trace.preserve)
    return Replay(requests, keeps)


def _request(
    step: Step,
    conversation: Conversation,
    target: Target,
    yardstick: Yardstick,
    restarted: bool,
) -> Request:
    identity = (step.session, step.turn, step.what.kind, restarted)
    try:
        messages = conversation.prepare(step.what)
        sent = conversation.as_sent(messages)
        expected = yardstick.before(messages, sent)
        start = time.perf_counter()
        reply = target.ask(_body(conversation.trace, sent))
        seconds = time.perf_counter() - start
        reuse = yardstick.answered(messages, sent, expected, reply)
    except (BenchError, LookupError) as error:
        return Request(*identity, error=str(error) or type(error).__name__)
    conversation.commit(step.what, messages, reply.answer)
    return Request(
        *identity,
        prompt_tokens=reply.prompt_tokens,
        cached_tokens=reply.cached_tokens,
        completion_tokens=reply.completion_tokens,
        rendered=reuse.prompt,
        new=reuse.new,
        after_end=reuse.after_end,
        seconds=seconds,
        finish_reason=reply.finish_reason,
        cache=reply.cache,
    )


def _body(trace: Trace, messages: Sequence[Message]) -> dict[str, Any]:
    """The request, in fields that all measured servers know."""
    options: dict[str, bool] = {"enable_thinking": trace.thinking}
    if trace.preserve:
        options["preserve_thinking"] = True
    body: dict[str, Any] = {
        "messages": list(messages),
        "max_tokens": trace.max_tokens,
        "temperature": 0.0,
        "chat_template_kwargs": options,
    }
    if trace.tools:
        body["tools"] = list(trace.tools)
    return body
