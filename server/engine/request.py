"""What a caller asks of the engine: one internal request, whatever dialect it came in.

Knows nothing of HTTP, of any wire schema, or of how a request is run. Values are taken as
validated by the dialect; `check` holds only what the engine itself could not survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from server.engine.errors import InvalidRequest

if TYPE_CHECKING:
    from model.sampling import SamplingParams

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20

GrammarKind = Literal["json_schema", "json_object", "regex", "lark", "gbnf", "choice"]


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether the model thinks before it answers, and for how many tokens at most.

    `budget` None means no limit but the context; it is ignored when `enabled` is false.
    """

    enabled: bool = True
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which of the offered tools may be called. All stay in the prompt, whose prefix is cached.

    mode: "auto" (any or none), "none", or "required" (at least one). names: only these, None is
    all. parallel: whether there may be more than one call.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """What the answer, after its thought, has to match.

    value: the schema (json_schema), None (json_object), the text of the regular expression or
    grammar, or a list of strings (choice). param: the wire's field, for errors.
    """

    kind: GrammarKind
    value: Any
    param: str


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
    tool_places: the wire's fields that hold the tools, for errors.
    tool_choice: which tools may be called; enforced, as are the tools' names and schemas.
    grammar: what the answer has to match, None is anything.
    logprobs: None is off; k asks for every content token's log probability and for those of the k
        most likely tokens at its place.
    prompt_logprobs: the same for the tokens of the prompt, none of which is then taken from the
        prompt cache.
    prompt: text or token ids to continue, in place of `messages` (which are then empty): no
        template, no thinking, and no tag means anything.
    continue_final: the last message, an assistant's, is continued instead of answered.
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
    tool_places: tuple[str, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    grammar: GrammarSpec | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt: str | tuple[int, ...] | None = None
    continue_final: bool = False

    @property
    def thinks(self) -> bool:
        """Whether there is a thought at all: a budget of nothing is no thought, and a raw prompt
        or a message to go on with has none to begin."""
        plain = self.prompt is None and not self.continue_final
        return plain and self.thinking.enabled and self.thinking.budget != 0

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """Those of the tools that the choice leaves."""
        choice = self.tool_choice
        if choice.mode == "none":
            return []
        tools = self.tools or []
        return [t for t in tools if choice.names is None or t["function"]["name"] in choice.names]

    def check(self) -> None:
        """Raises InvalidRequest naming the first field the engine cannot run."""
        if not self.messages and self.prompt is None:
            raise InvalidRequest("messages must not be empty.", "messages")
        if self.prompt is not None and not self.prompt:
            raise InvalidRequest("prompt must not be empty.", "prompt")
        if not 1 <= self.n <= MAX_CHOICES:
            raise InvalidRequest(f"n must be between 1 and {MAX_CHOICES}.", "n")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1.", "max_tokens")
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
                raise InvalidRequest(f"{name} must be between 0 and {MAX_TOP_LOGPROBS}.", name)
        if self.continue_final and (not self.messages or self.messages[-1]["role"] != "assistant"):
            text = "To continue the final message, it must be an assistant's."
            raise InvalidRequest(text, "continue_final_message")
        if any(not text for text in self.stop):
            raise InvalidRequest("A stop string must not be empty.", "stop")
        budget = self.thinking.budget
        if budget is not None and budget < 0:
            raise InvalidRequest("A thinking budget must not be negative.", "thinking_budget")
        if self.timeout is not None and self.timeout <= 0:
            raise InvalidRequest("timeout must be above 0.", "timeout")
