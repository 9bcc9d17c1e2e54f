"""The clients: what each needs installed, which exercise tries it, what is known not to work.

Versions are pinned to those that were tried; npm's need Node 22, which comes from the registry
where the machine has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Known:
    """A failure that is known: why, and all that the check may say; anything else is a new one."""

    why: str
    says: str  # a regular expression

    def explains(self, error: str) -> bool:
        said = re.sub(r" \(expect:\d+: .*", "", error.removeprefix("AssertionError: "))
        return re.fullmatch(self.says, said, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class Client:
    """One client; `packages[0]` is the one whose version is shown. `runtime` is where packages and
    exercise live ("python" or "node"); what `exercise` names may be Python for both."""

    name: str
    kind: str  # "sdk", "agent" or "oracle"
    runtime: str
    packages: tuple[str, ...]
    exercise: str
    apis: tuple[str, ...]  # of "chat", "responses", "messages"
    seconds: int = 300  # limit of the whole exercise
    known: Mapping[str, Known] = field(default_factory=dict)  # by the name of the check

    @property
    def version(self) -> str:
        return self.packages[0].replace("==", "@").rpartition("@")[2]


ALL = ("chat", "responses", "messages")

IMAGE = Known("images are refused with a 400", r"HTTP 400 \(expected \[200\]\);.*")
NO_MODEL = Known(
    "a request without a model is answered here", r"HTTP 200 \(expected \[400, 422\]\)"
)
REASONING_TEXT = Known(
    "it knows Open Responses' names of reasoning events, not OpenAI's",
    r"(unknown SSE event type: response\.reasoning_text\.(delta|done)(; )?)+",
)
CITATIONS = Known(
    "it takes no null for citations, which Anthropic's specification requires",
    r"content(\.0|_block): Invalid input",
)
# The question begins with random letters; alone too, 17 of 60 such were thought about without end.
LOOP = Known(
    "the demo never ends its thought about some random letters",
    "; ".join(f"request {i} came back empty" for i in range(4)),
)
INPUT_TOKENS = Known(
    "it takes input_tokens for the whole prompt; Anthropic's leave out what was cached",
    r"cached_tokens \d+ > prompt_tokens \d+",
)

CLIENTS = (
    Client("openai-python", "sdk", "python", ("openai==3.54.0",), "openai_python.py", ALL[:2]),
    Client("openai-node", "sdk", "node", ("openai@7.57.0", "zod@4.6.7"),
           "openai_node.mjs", ALL[:2]),
    Client("anthropic-python", "sdk", "python", ("anthropic==2.12.0",), "anthropic_python.py",
           ("messages",)),
    Client("anthropic-node", "sdk", "node", ("@anthropic-ai/sdk@1.12.0",), "anthropic_node.mjs",
           ("messages",)),
    Client("litellm", "sdk", "python", ("litellm==1.106.2", "mcp"), "litellm_python.py", ALL),
    Client("langchain-openai", "sdk", "python", ("langchain-openai==1.7.3",),
           "langchain_python.py", ALL[:2]),
    Client("instructor", "sdk", "python", ("instructor==1.17.0",), "instructor_python.py",
           ("chat",)),
    Client("pydantic-ai", "sdk", "python", ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
           "pydantic_ai_python.py", ALL),
    Client("openai-agents", "sdk", "python", ("openai-agents==0.24.0",),
           "openai_agents_python.py", ALL[:2]),
    Client("llm", "sdk", "python", ("llm==0.36",), "llm_python.py", ("chat",)),
    Client("ai-sdk", "sdk", "node", ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92",
           "@ai-sdk/openai@4.0.118", "@ai-sdk/anthropic@4.0.105", "zod@4.6.7"),
           "ai_sdk_node.mjs", ALL),
    Client("opencode", "agent", "node", ("opencode-ai@1.18.33",), "opencode.py", ("chat",), 1200),
    Client("cline", "agent", "node", ("cline@3.0.65",), "cline.py", ("chat",), 1200),
    Client("aider", "agent", "python", ("aider-chat==0.86.2",), "aider.py", ("chat",)),
    Client("qwen-code", "agent", "node", ("@qwen-code/qwen-code@0.24.4",), "qwen_code.py",
           ("chat",), 1200),
    Client("pi", "agent", "node", ("@earendil-works/pi-coding-agent@0.74.2",), "pi.py", ("chat",),
           1200),
    Client("continue-cli", "agent", "node", ("@continuedev/cli@1.5.47",), "continue_cli.py",
           ("chat",), 1200),
    Client("copilot-cli", "agent", "node", ("@github/copilot@1.0.102",), "copilot.py", ALL,
           1200),
    Client("goose", "agent", "node", ("@aaif/goose@0.20.1",), "goose.py", ("chat",), 1200),
    Client("codex", "agent", "node", ("@openai/codex@0.169.0",), "codex.py", ("responses",), 1200),
    Client("claude-code", "agent", "node", ("@anthropic-ai/claude-code@2.1.330",),
           "claude_code.py", ("messages",), 1200),
    Client("llm-comply", "oracle", "python", ("llm-comply==0.5.0",), "llm_comply.py", ALL,
           known={
               "openai-chat: chat-image-input": IMAGE,
               "open-responses: image-input": IMAGE,
               "anthropic: anth-image-input": IMAGE,
               "openai-chat: chat-error-handling": NO_MODEL,
               "open-responses: error-handling": NO_MODEL,
               "open-responses: streaming-response": REASONING_TEXT,
               "open-responses: streaming-usage": REASONING_TEXT,
           }),
    Client("llmprobe", "oracle", "node", ("llmprobe@0.6.12",), "llmprobe.py", ALL, 1200,
           known={
               "responses: streaming + SSE framing": Known(
                   "it wants Open Responses' [DONE] and names of reasoning events; OpenAI has none "
                   "and others",
                   r"<root>: Invalid input; stream never sent the terminal `data: \[DONE\]`.*",
               ),
               "messages: basic completion": CITATIONS,
               "messages: streaming + SSE framing": CITATIONS,
               "messages: assistant-history reasoning round-trip": CITATIONS,
               "messages: usage tokens": INPUT_TOKENS,
               "messages: prompt cache reporting": INPUT_TOKENS,
               "messages: prefix cache reuses a growing conversation": INPUT_TOKENS,
               **{f"{api}: concurrent identical requests agree": LOOP
                  for api in ("chat/completions", "responses", "messages")},
               "messages: a trailing assistant message is a prefill": Known(
                   "the demo goes on in words of its own", r"the reply started over \(.*",
               ),
           }),
)  # fmt: skip
