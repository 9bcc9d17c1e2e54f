"""Claude Code on Messages; its Bash tool is not allowed."""

import json

from agent import FILE, KEY, MODEL, call, exercise, relay
from report import expect

ENVIRONMENT = {
    "ANTHROPIC_BASE_URL": relay.url,
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_MODEL": MODEL,
    "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "131072",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "API_TIMEOUT_MS": "580000",
}


def claude(prompt: str, *flags: str) -> str:
    said = json.loads(
        call("claude", "-p", prompt, "--model", MODEL, "--output-format", "json",
             "--max-turns", "4", "--allowedTools", "Read", *flags, **ENVIRONMENT)
    )  # fmt: skip
    expect(not said["is_error"], said)
    expect(said["usage"]["output_tokens"] > 0, said)
    return said["result"]


# Otherwise the prompt is followed by 10,000 characters about skills and the environment, and the
# demo answers those. Its tool is tried with all of it.
BARE = ("--bare", "--tools", "Read")

exercise(
    lambda prompt: claude(prompt, *BARE),
    lambda prompt: claude(prompt, *BARE, "--continue"),
    path="/v1/messages",
    tool="Read",
    arguments={"file_path": str(FILE)},
    use=claude,
)
