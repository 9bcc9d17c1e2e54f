"""Continue's command `cn` on Chat Completions; it may only read."""

from agent import FILE, HOME, KEY, MODEL, call, exercise, relay

CONFIG = f"""name: mxserve
version: 0.0.1
schema: v1
models:
  - name: mxserve
    provider: openai
    model: {MODEL}
    apiBase: {relay.url}/v1
    apiKey: {KEY}
    roles: [chat]
"""

file = HOME / "config.yaml"
file.write_text(CONFIG)


def cn(prompt: str, *flags: str) -> str:
    return call("cn", "-p", "--config", str(file), "--readonly", *flags, prompt,
                CONTINUE_TELEMETRY_ENABLED="0", CONTINUE_CLI_AUTO_UPDATED="1")  # fmt: skip


exercise(
    cn,
    lambda prompt: cn(prompt, "--resume"),
    path="/v1/chat/completions",
    tool="Read",
    arguments={"filepath": str(FILE)},
)
