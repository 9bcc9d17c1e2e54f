"""GitHub's Copilot CLI, offline with a model of one's own: Chat Completions."""

from agent import KEY, MODEL, call, exercise, relay

ENVIRONMENT = {
    "COPILOT_OFFLINE": "true",
    "COPILOT_PROVIDER_BASE_URL": f"{relay.url}/v1",
    "COPILOT_PROVIDER_API_KEY": KEY,
    "COPILOT_PROVIDER_WIRE_API": "completions",
    "COPILOT_MODEL": MODEL,
}


def ask(prompt: str) -> str:
    return call("copilot", "-p", prompt, "--silent", "--disable-client-telemetry",
                "--allow-tool", "view", "--allow-tool", "glob", **ENVIRONMENT)  # fmt: skip


exercise(ask, path="/v1/chat/completions", tool="glob")
