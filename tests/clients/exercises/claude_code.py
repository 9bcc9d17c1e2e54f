"""Claude Code on Messages; its Bash tool is not allowed."""

import json

from agent import KEY, MODEL, call, exercise, relay
from report import expect

ENVIRONMENT = {
    "ANTHROPIC_BASE_URL": relay.url,
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_MODEL": MODEL,
    "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "API_TIMEOUT_MS": "580000",
}


def ask(prompt: str) -> str:
    said = json.loads(
        call("claude", "-p", prompt, "--model", MODEL, "--output-format", "json",
             "--max-turns", "4", "--allowedTools", "Read", **ENVIRONMENT)
    )  # fmt: skip
    expect(not said["is_error"], said)
    expect(said["usage"]["output_tokens"] > 0, said)
    return said["result"]


exercise(ask, path="/v1/messages", tool="Read")
