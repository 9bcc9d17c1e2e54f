"""What is known of one HTTP request, for the one line that the log has of it. No text of a prompt
or an answer, and no key, has a place here.

The record in progress is found by the code that runs for its request, and by tasks it starts.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

current: ContextVar[RequestRecord | None] = ContextVar("mxserve_request", default=None)


@dataclass(slots=True)
class RequestRecord:
    """Times in seconds; `began` on the monotonic clock. client: another machine's address; route:
    the path's pattern, "" where there is none; key: the name of the key that was presented; tokens:
    of all prompts and choices that were made for it; finish: the reason of the choice that ended
    last, or the code of the error; ttft_s: from the request's head to its answer's first piece."""

    id: str
    method: str
    path: str
    began: float = field(default_factory=time.monotonic)
    client: str | None = None
    route: str = ""
    status: int = 0
    key: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    total_s: float = 0.0
    finish: str | None = None

    def add_prompt(self, tokens: int, cached: int) -> None:
        self.prompt_tokens = (self.prompt_tokens or 0) + tokens
        self.cached_tokens = (self.cached_tokens or 0) + cached

    def add_completion(self, tokens: int) -> None:
        self.completion_tokens = (self.completion_tokens or 0) + tokens

    def first_piece(self) -> None:
        """Notes the time of the first piece of text; later ones change nothing."""
        if self.ttft_s is None:
            self.ttft_s = time.monotonic() - self.began

    def fields(self) -> dict[str, str | int | float]:
        """What the log says beyond method, path and status; what is not known is left out."""
        known = {
            "status": self.status,
            "id": self.id,
            "route": self.route or None,
            "client": self.client,
            "key": self.key,
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "queue_s": _rounded(self.queue_s),
            "ttft_s": _rounded(self.ttft_s),
            "total_s": _rounded(self.total_s),
            "finish": self.finish,
        }
        return {name: value for name, value in known.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
