"""What a caller asks of the engine: one internal request, whatever dialect it came in.

Knows nothing of HTTP, of any wire schema, or of how a request is run. Values are taken as
validated by the dialect; `check` holds only what the engine itself could not survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.engine.errors import InvalidRequest

if TYPE_CHECKING:
    from model.sampling import SamplingParams

MAX_CHOICES = 16


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether the model thinks before it answers, and for how many tokens at most.

    `budget` None means no limit but the context; it is ignored when `enabled` is false.
    """

    enabled: bool = True
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request for `n` answers to one conversation.

    messages: dicts in the chat template's shape: role (system, user, assistant, tool), content
        (str), and for an assistant optionally reasoning_content (str) and tool_calls (each
        {"id", "type", "function": {"name", "arguments": mapping}}).
    tools: the offered functions in OpenAI's shape, or None.
    sampling: all sampling parameters, defaults already merged in. With a seed, choice i draws
        from seed + i; without one the engine draws a seed.
    stop: strings at which an answer ends; they are not part of the answer.
    max_tokens: most tokens of one answer, reasoning included; None is the remaining context.
    preserve_thinking: keep the reasoning of earlier turns in the prompt. None is on: the next
        prompt then extends what the cache holds, reasoning echoed by the client or not.
    session: a hint that requests belong together; never needed.
    timeout: seconds from submit to the last event; None is the engine's setting.
    tenant: requests of different tenants share no cached prompt.
    """

    messages: list[dict[str, Any]]
    sampling: SamplingParams
    tools: list[dict[str, Any]] | None = None
    thinking: Thinking = Thinking()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    n: int = 1
    preserve_thinking: bool | None = None
    session: str | None = None
    timeout: float | None = None
    tenant: str = ""

    @property
    def thinks(self) -> bool:
        """Whether there is a thought at all: a budget of nothing is no thought."""
        return self.thinking.enabled and self.thinking.budget != 0

    def check(self) -> None:
        """Raises InvalidRequest naming the first field the engine cannot run."""
        if not self.messages:
            raise InvalidRequest("messages must not be empty.", "messages")
        if not 1 <= self.n <= MAX_CHOICES:
            raise InvalidRequest(f"n must be between 1 and {MAX_CHOICES}.", "n")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1.", "max_tokens")
        if any(not text for text in self.stop):
            raise InvalidRequest("A stop string must not be empty.", "stop")
        budget = self.thinking.budget
        if budget is not None and budget < 0:
            raise InvalidRequest("A thinking budget must not be negative.", "thinking_budget")
        if self.timeout is not None and self.timeout <= 0:
            raise InvalidRequest("timeout must be above 0.", "timeout")
